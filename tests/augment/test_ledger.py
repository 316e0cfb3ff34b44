"""The ledger: what ranks deliver adds up to what the order asks for, and nothing else does."""

import struct
from pathlib import Path
from typing import Any

import pytest

from augment.choices import choose
from augment.ledger import Ledger
from augment.loader import Loader
from augment.settings import LoaderSettings
from ingest.dataset import Dataset
from tests.augment.stored import SIDE, Stored

SETTINGS = LoaderSettings(global_batch=16, seed=3)
M = 2**64 - 1


def delivered(dataset: str, settings: LoaderSettings, epoch: int, world_size: int, **how: Any) -> Ledger:
    """The sum over all ranks."""
    total = Ledger()
    for rank in range(world_size):
        with Loader(dataset, settings, rank=rank, world_size=world_size, **how) as loader:
            loader.set_epoch(epoch)
            for _ in loader:
                continue
            total = total.plus(loader.ledger)
            expected = loader.expected_ledger()
    assert expected == total
    return total


@pytest.mark.parametrize(
    "change",
    [{}, {"tail": "drop"}, {"tail": "wrap"}, {"order": "fixed", "crop_chunk": 8}, {"window": 2}, {"colour": "none"}],
    ids=str,
)
def test_any_number_of_ranks_delivers_what_the_order_asks_for(tiny_raw_dataset: str, change: dict[str, Any]) -> None:
    settings = SETTINGS.model_copy(update=change)
    found = {delivered(tiny_raw_dataset, settings, 2, world_size) for world_size in (1, 2, 3)}
    assert len(found) == 1
    assert found.pop().count == {"drop": 48, "wrap": 64}.get(settings.tail, 60)


@pytest.mark.parametrize("views", [1, 10])
def test_evaluation_keeps_one_as_well(tiny_raw_dataset: str, views: int) -> None:
    assert delivered(tiny_raw_dataset, SETTINGS, 0, 3, split="val", views=views).count == 30


def test_the_parts_of_an_interrupted_epoch_add_up(tiny_dataset: str) -> None:
    with Loader(tiny_dataset, SETTINGS) as loader:
        for _ in zip(range(2), loader, strict=False):
            continue
        state, first = loader.state_dict(), loader.ledger
        whole = loader.expected_ledger()
    with Loader(tiny_dataset, SETTINGS) as loader:
        loader.load_state_dict(state)
        assert first.plus(loader.expected_ledger(2)) == whole
        for _ in loader:
            continue
        assert first.plus(loader.ledger) == whole


def test_epoch_seed_crop_and_colour_all_show(tiny_raw_dataset: str) -> None:
    changes: list[dict[str, Any]] = [{}, {"seed": 4}, {"crop": 200}, {"flip": False}, {"colour": "paper"}]
    found = [delivered(tiny_raw_dataset, SETTINGS.model_copy(update=change), 0, 1).digest for change in changes]
    found.append(delivered(tiny_raw_dataset, SETTINGS, 1, 1).digest)
    assert len(set(found)) == len(found)


def test_a_lost_or_repeated_sample_shows(tiny_raw_dataset: str) -> None:
    with Loader(tiny_raw_dataset, SETTINGS.model_copy(update={"damaged": "replace"})) as loader:
        sums = loader.split.crc32c = loader.split.crc32c.copy()
        sums[7] += 1
        for _ in loader:
            continue
        assert loader.ledger.count == loader.expected_ledger().count == 60
        assert loader.ledger.digest != loader.expected_ledger().digest


def mixed(value: int) -> int:
    value = value + 0x9E3779B97F4A7C15 & M
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & M
    value = (value ^ value >> 27) * 0x94D049BB133111EB & M
    return value ^ value >> 31


def test_the_digest_is_that_of_the_specification(tiny_raw_dataset: str) -> None:
    assert mixed(0) == 0xE220A8397B1DCDAF  # the first output of SplitMix64 with seed 0
    index = Stored(Path(tiny_raw_dataset)).index
    opened, total = Dataset.open(tiny_raw_dataset), 0
    with Loader(opened, SETTINGS) as loader:
        loader.set_epoch(5)
        for step in range(len(loader)):
            share = loader.share(step)
            c = choose(SETTINGS, SIDE, opened.pca, 5, share.rows, share.positions)
            for i, row in enumerate(share.rows.tolist()):
                r, g, b = struct.unpack("<3I", c.offset[i].tobytes())
                found = mixed(row ^ mixed(5))
                found = mixed(found ^ (int(c.y[i]) << 33 | int(c.x[i]) << 1 | int(c.mirror[i])))
                found = mixed(found ^ (r | g << 32))
                total = total + mixed(found ^ b) & M
        assert loader.expected_ledger() == Ledger(len(index), total)
