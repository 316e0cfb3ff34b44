"""The order of an epoch: a permutation, shared out without gaps for any number of ranks."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from augment.order import EpochOrder, order_id, permuted
from augment.settings import LoaderSettings

KEY_1_2 = 1 + (2 << 32)


def order_of(num_samples: int, epoch: int = 0, sizes: list[int] | None = None, **chosen: object) -> EpochOrder:
    return EpochOrder(num_samples, LoaderSettings.model_validate(chosen), epoch, sizes or [])


def all_samples(order: EpochOrder) -> list[int]:
    return order.samples(np.arange(order.num_samples)).tolist()


def test_the_order_equals_its_golden_value() -> None:
    assert permuted(np.arange(10), 10, KEY_1_2, 7).tolist() == [9, 5, 7, 8, 1, 4, 6, 3, 2, 0]


@settings(deadline=None)
@given(st.integers(1, 3000), st.integers(0, 2**63 - 1), st.integers(0, 2**32 - 1))
def test_an_epoch_is_a_permutation(num_samples: int, seed: int, epoch: int) -> None:
    assert sorted(all_samples(order_of(num_samples, epoch, seed=seed))) == list(range(num_samples))


def test_an_epoch_of_imagenet_is_a_permutation_that_leaves_nothing_near() -> None:
    order = permuted(np.arange(1_281_167), 1_281_167, 0, 3)
    assert np.array_equal(np.sort(order), np.arange(1_281_167))
    assert abs(np.abs(np.diff(order)).mean() / 1_281_167 - 1 / 3) < 0.002
    assert (order == np.arange(1_281_167)).sum() < 10


@settings(deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=12), st.integers(1, 5), st.integers(0, 1000))
def test_a_windowed_order_permutes_within_groups_of_shards(sizes: list[int], window: int, seed: int) -> None:
    found = all_samples(order_of(sum(sizes), 1, sizes, seed=seed, window=window))
    ends = np.cumsum([0, *(sum(sizes[k : k + window]) for k in range(0, len(sizes), window))])
    for start, end in itertools.pairwise(ends):
        assert sorted(found[start:end]) == list(range(start, end))


@pytest.mark.parametrize("one", ["seed", "epoch"])
def test_seed_and_epoch_each_change_the_order(one: str) -> None:
    other = order_of(1000, epoch=int(one == "epoch"), seed=int(one == "seed"))
    assert all_samples(other) != all_samples(order_of(1000))


def test_a_seed_is_not_an_epoch_in_disguise() -> None:
    assert all_samples(order_of(1000, epoch=1, seed=0)) != all_samples(order_of(1000, epoch=0, seed=1))


def test_a_fixed_order_is_the_datasets_own_in_every_epoch() -> None:
    assert all_samples(order_of(50, epoch=9, order="fixed")) == list(range(50))


@given(st.integers(1, 500), st.integers(1, 64), st.integers(1, 9), st.booleans())
def test_ranks_share_every_batch_without_gaps(num_samples: int, batch: int, world_size: int, windowed: bool) -> None:
    order = order_of(num_samples, global_batch=batch)
    for step in {0, order.num_steps - 1}:
        size = len(order.positions(step))
        places = np.random.default_rng(step).permutation(size) if windowed else None
        shares = [order.share(step, rank, world_size, places) for rank in range(world_size)]
        assert sorted(np.concatenate(shares)) == list(range(size))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_without_a_window_rank_r_takes_every_wth_place() -> None:
    assert order_of(100, global_batch=10).share(0, 1, 4).tolist() == [1, 5, 9]


@pytest.mark.parametrize(("tail", "steps", "last"), [("drop", 3, 32), ("short", 4, 4), ("wrap", 4, 32)])
def test_the_tail_is_dropped_short_or_filled_from_the_start(tail: str, steps: int, last: int) -> None:
    order = order_of(100, global_batch=32, tail=tail)
    assert order.num_steps == steps
    positions = order.positions(steps - 1)
    assert len(positions) == last
    if tail == "wrap":
        assert order.samples(positions).tolist()[4:] == order.samples(np.arange(28)).tolist()


@pytest.mark.parametrize(
    "change",
    [{"seed": 1}, {"global_batch": 64}, {"order": "fixed"}, {"tail": "drop"}, {"crop_chunk": 32}, {"window": 2}],
)
def test_whatever_decides_the_batches_changes_the_order_id(change: dict[str, object]) -> None:
    assert order_id(LoaderSettings.model_validate(change)) != order_id(LoaderSettings())
    assert order_id(LoaderSettings(threads=7, prefetch=3, mean="none")) == order_id(LoaderSettings())
