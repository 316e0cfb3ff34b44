"""A payload that changed on disk: named, and the run stops."""

import shutil
from collections.abc import Callable
from pathlib import Path

import google_crc32c
import pytest

from augment.loader import Loader
from augment.settings import LoaderSettings
from ingest.errors import DamageError
from tests.augment.stored import Stored

SETTINGS = LoaderSettings(global_batch=16)
ROW = 37


@pytest.fixture
def copied(tmp_path: Path) -> Callable[[str], Stored]:
    def copy(dataset: str) -> Stored:
        shutil.copytree(dataset, tmp_path / "copy")
        return Stored(tmp_path / "copy")

    return copy


def place_of(stored: Stored) -> tuple[Path, int, int]:
    row = stored.index[ROW]
    shards = [s for s in sorted((stored.folder / "train").iterdir()) if s.suffix in (".arrow", ".tfrecord")]
    return shards[row["shard"]], row["offset"], row["length"]


def overwrite(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


@pytest.mark.parametrize("name", ["tiny_dataset", "tiny_raw_dataset", "tiny_tfrecord_dataset"])
def test_one_flipped_bit_is_named_and_stops(
    name: str, copied: Callable[[str], Stored], request: pytest.FixtureRequest
) -> None:
    stored = copied(request.getfixturevalue(name))
    shard, offset, length = place_of(stored)
    byte = shard.read_bytes()[offset + length // 2]
    overwrite(shard, offset + length // 2, bytes([byte ^ 0x10]))
    with Loader(str(stored.folder), SETTINGS) as loader:
        with pytest.raises(DamageError) as caught:
            list(loader)
        assert shard.name in caught.value.message
        assert stored.index[ROW]["key"] in caught.value.message
        assert f"byte {offset}" in caught.value.message
        # Batches before the damaged one were delivered; the loader is not stuck afterwards.
        with pytest.raises(DamageError):
            list(loader)


def test_a_shard_of_another_length_is_refused(copied: Callable[[str], Stored], tiny_dataset: str) -> None:
    stored = copied(tiny_dataset)
    shard, _, _ = place_of(stored)
    with shard.open("ab") as file:
        file.write(b"\0")
    with Loader(str(stored.folder), SETTINGS) as loader, pytest.raises(DamageError, match=shard.name):
        list(loader)


def test_a_picture_that_does_not_decode_is_named(copied: Callable[[str], Stored], tiny_dataset: str) -> None:
    stored = copied(tiny_dataset)
    shard, offset, length = place_of(stored)
    overwrite(shard, offset, bytes(length))
    with Loader(str(stored.folder), SETTINGS) as loader:
        # As if the zeros had been ingested: their checksum is right, and only the decoder can object.
        sums = loader.split.crc32c = loader.split.crc32c.copy()
        sums[ROW] = google_crc32c.value(bytes(length))
        with pytest.raises(DamageError, match=f"{stored.index[ROW]['key']} cannot be decoded"):
            list(loader)
        sums[ROW] = stored.index[ROW]["crc32c"]
        overwrite(shard, offset, Stored(Path(tiny_dataset)).payloads[ROW])
        assert len(list(loader)) == 4


def test_a_changed_index_is_refused_on_opening(copied: Callable[[str], Stored], tiny_dataset: str) -> None:
    stored = copied(tiny_dataset)
    path = stored.folder / "index/train.arrow"
    overwrite(path, path.stat().st_size // 2, b"\xff\x00\xff")
    with pytest.raises(DamageError, match=r"index/train\.arrow"):
        Loader(str(stored.folder), SETTINGS)
