"""Damaged samples that are replaced: by the next intact one, on every rank alike, counted, and never without asking."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from augment.choices import choose
from augment.loader import Batch, Loader
from augment.settings import LoaderSettings
from ingest.dataset import Dataset
from ingest.errors import DamageError
from tests.augment.stored import SIDE, Stored

SETTINGS = LoaderSettings(global_batch=16, damaged="replace", output="uint8")
NAMES = ["tiny_dataset", "tiny_raw_dataset", "tiny_tfrecord_dataset"]
Damage = Callable[[str, list[int]], Stored]


@pytest.fixture
def damaged(tmp_path: Path, request: pytest.FixtureRequest) -> Damage:
    """A copy of a dataset in which a bit of some training samples is flipped."""

    def damage(name: str, rows: list[int]) -> Stored:
        shutil.copytree(request.getfixturevalue(name), tmp_path / "copy")
        stored = Stored(tmp_path / "copy")
        for row in rows:
            path, at = shard_of(stored, row), stored.index[row]["offset"] + stored.index[row]["length"] // 3
            data = bytearray(path.read_bytes())
            data[at] ^= 4
            path.write_bytes(data)
        return stored

    return damage


def shard_of(stored: Stored, row: int) -> Path:
    shards = [s for s in sorted((stored.folder / "train").iterdir()) if s.suffix in (".arrow", ".tfrecord")]
    return shards[stored.index[row]["shard"]]


def epoch(folder: str, **how: Any) -> tuple[list[Batch], dict[int, str]]:
    with Loader(folder, SETTINGS, **how) as loader:
        return list(loader), loader.damaged


@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_sample_gives_way_to_the_next_intact_one(
    name: str, damaged: Damage, request: pytest.FixtureRequest
) -> None:
    intact = Stored(Path(request.getfixturevalue(name)))
    stored = damaged(name, [20, 21, 59])
    found, told = epoch(str(stored.folder))
    wanted, _ = epoch(str(intact.folder))
    assert set(told) == {20, 21, 59}
    assert all(intact.index[row]["key"] in words for row, words in told.items())
    instead = {20: 22, 21: 22, 59: 0}
    pca = Dataset.open(str(intact.folder)).pca
    for step, (batch, other) in enumerate(zip(found, wanted, strict=True)):
        for i, row in enumerate(other.sample_numbers.tolist()):
            taken = instead.get(row, row)
            assert batch.sample_numbers[i] == taken
            assert batch.labels[i] == intact.labels[taken]
            # The crop and the flip stay those of the sample that was to come.
            c = choose(SETTINGS, SIDE, pca, 0, np.array([row]), np.array([step * 16 + i]))
            cut = intact.pictures[taken][c.y[0] : c.y[0] + 224, c.x[0] : c.x[0] + 224]
            assert np.array_equal(batch.images[i].permute(1, 2, 0).numpy(), cut[:, ::-1] if c.mirror[0] else cut)


@pytest.mark.parametrize("world_size", [2, 3])
def test_every_rank_replaces_alike(world_size: int, damaged: Damage) -> None:
    stored = damaged("tiny_dataset", [5, 30, 31, 48])
    whole, _ = epoch(str(stored.folder))
    ranks = [epoch(str(stored.folder), rank=rank, world_size=world_size) for rank in range(world_size)]
    assert {len(batches) for batches, _ in ranks} == {len(whole)}
    assert set().union(*(told for _, told in ranks)) == {5, 30, 31, 48}
    for step, batch in enumerate(whole):
        shares = [batches[step] for batches, _ in ranks]
        order = torch.cat([share.places for share in shares]).argsort()
        assert torch.equal(torch.cat([share.images for share in shares])[order], batch.images)
        assert torch.equal(torch.cat([share.sample_numbers for share in shares])[order], batch.sample_numbers)


@pytest.mark.parametrize("how", ["gone", "cut"])
def test_a_lost_shard_is_replaced_sample_by_sample(how: str, damaged: Damage) -> None:
    stored = damaged("tiny_raw_dataset", [])
    path = shard_of(stored, 20)
    lost = [row for row, entry in enumerate(stored.index) if entry["shard"] == stored.index[20]["shard"]]
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1])
    found, told = epoch(str(stored.folder))
    assert sorted(told) == lost
    taken = torch.cat([batch.sample_numbers for batch in found]).tolist()
    assert sorted(taken) == sorted([*(r for r in range(60) if r not in lost), *[max(lost) + 1] * len(lost)])


def test_a_picture_that_does_not_decode_is_replaced(tiny_dataset: str) -> None:
    with Loader(tiny_dataset, SETTINGS) as loader:
        rows = list(range(60))
        broken = 37
        # As if zeros had been ingested: their checksum is right, and only the decoder can object.
        read = loader._reader.payload
        zeros = np.zeros(1000, np.uint8)
        loader._reader.payload = lambda row: (zeros, row) if row == broken else read(row)  # type: ignore[method-assign]
        taken = torch.cat([batch.sample_numbers for batch in loader]).tolist()
        assert sorted(taken) == sorted([row for row in rows if row != broken] + [broken + 1])
        assert "cannot be decoded" in loader.damaged[broken]


def test_without_asking_nothing_is_replaced(damaged: Damage) -> None:
    stored = damaged("tiny_raw_dataset", [20])
    with (
        Loader(str(stored.folder), SETTINGS.model_copy(update={"damaged": "stop"})) as loader,
        pytest.raises(DamageError, match=stored.index[20]["key"]),
    ):
        list(loader)


def test_a_split_without_an_intact_sample_ends_in_words(damaged: Damage) -> None:
    stored = damaged("tiny_raw_dataset", list(range(60)))
    with Loader(str(stored.folder), SETTINGS) as loader, pytest.raises(DamageError, match="every sample of train"):
        list(loader)
