"""Dropout masks are a function of seed, step, layer, row and unit, for any split of the batch."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.augment.test_choices import plain_philox
from trainer.dropout import DropoutKey, keep_mask
from trainer.networks import Network, build
from trainer.switches import NetworkSettings

CPU = torch.device("cpu")
SEEDS, STEPS, ROWS = st.integers(0, 2**63 - 1), st.integers(0, 2**32 - 1), st.integers(0, 999_999)


def mask(seed: int, step: int, rows: list[int], layer: int = 0, units: int = 4096) -> torch.Tensor:
    return keep_mask(DropoutKey(seed, step, np.array(rows, np.int64)), layer, units, CPU)


def plain_bit(seed: int, step: int, layer: int, row: int, unit: int) -> int:
    """One unit's bit in whole numbers: the block of 128 units, the word of 32, the bit in it."""
    words = plain_philox((row, unit // 128, step, 16 + layer), (seed % 2**32, seed // 2**32))
    return words[unit % 128 // 32] >> unit % 32 & 1


@settings(max_examples=100, deadline=None)
@given(SEEDS, STEPS, st.integers(0, 1), ROWS, st.integers(0, 4095))
def test_every_unit_follows_the_specification(seed: int, step: int, layer: int, row: int, unit: int) -> None:
    assert mask(seed, step, [row], layer)[0, unit].item() == plain_bit(seed, step, layer, row, unit)


def test_a_mask_of_any_width_is_the_start_of_a_wider_one() -> None:
    wide = mask(9, 5, [3, 8], units=300)
    assert wide.shape == (2, 300)
    assert torch.equal(mask(9, 5, [3, 8], units=45), wide[:, :45])
    assert wide.tolist() == [[plain_bit(9, 5, 0, row, unit) for unit in range(300)] for row in (3, 8)]


@settings(max_examples=30, deadline=None)
@given(SEEDS, STEPS, st.lists(ROWS, min_size=1, max_size=12, unique=True), st.data())
def test_masks_are_the_same_for_any_split_of_the_rows(seed: int, step: int, rows: list[int], data: Any) -> None:
    key = DropoutKey(seed, step, np.array(rows, np.int64))
    whole = keep_mask(key, 1, 256, CPU)
    cut = data.draw(st.integers(0, len(rows)))
    parts = [keep_mask(part, 1, 256, CPU) for part in (key.part(0, cut), key.part(cut, len(rows)))]
    assert torch.equal(torch.cat(parts), whole)
    order = data.draw(st.permutations(range(len(rows))))
    assert torch.equal(mask(seed, step, [rows[i] for i in order], 1, 256), whole[list(order)])


def test_half_of_the_units_are_kept_and_no_two_masks_are_alike() -> None:
    rows = list(range(128))
    first = mask(0, 0, rows)
    others = [mask(1, 0, rows), mask(2**32, 0, rows), mask(0, 1, rows), mask(0, 0, rows, layer=1), first.roll(1, 0)]
    assert first.unique().tolist() == [0, 1]
    # Five deviations of a fair coin over 524,288 units.
    allowed = 5 * 0.5 / first.numel() ** 0.5
    assert abs(first.mean().item() - 0.5) < allowed
    assert all(abs((first == other).float().mean().item() - 0.5) < allowed for other in others)


def seen_by(network: Network, key: DropoutKey | None) -> dict[str, torch.Tensor]:
    """Output of fc6 and fc7 after ReLU, and what fc7 and fc8 get of it."""
    seen: dict[str, torch.Tensor] = {}
    hooks = [
        network.get_submodule("fc6").register_forward_hook(lambda m, i, o: seen.update(fc6=o.relu())),
        network.get_submodule("fc7").register_forward_hook(lambda m, i, o: seen.update(fc7_in=i[0], fc7=o.relu())),
        network.get_submodule("fc8").register_forward_hook(lambda m, i, o: seen.update(fc8_in=i[0])),
    ]
    images = torch.randn(3, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        network(images, dropout=key)
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize(("kind", "training", "test"), [("mask", 1.0, 0.5), ("scaled", 2.0, 1.0)])
def test_masked_units_are_halved_at_test_time_or_doubled_in_training(kind: str, training: float, test: float) -> None:
    network = build(NetworkSettings(num_classes=10, init="he", dropout=kind), 0)
    trained = seen_by(network, DropoutKey(4, 7, np.array([5, 0, 9])))
    tested = seen_by(network, None)
    for layer, (out, into) in enumerate((("fc6", "fc7_in"), ("fc7", "fc8_in"))):
        assert torch.equal(trained[into], trained[out] * mask(4, 7, [5, 0, 9], layer) * training)
        assert torch.equal(tested[into], tested[out] * test)


def test_without_dropout_every_unit_is_kept() -> None:
    network = build(NetworkSettings(num_classes=10, init="he", dropout="none"), 0)
    seen = seen_by(network, DropoutKey(4, 7, np.array([5, 0, 9])))
    assert torch.equal(seen["fc7_in"], seen["fc6"])
    assert torch.equal(seen["fc8_in"], seen["fc7"])
