"""A sealed dataset, opened: index, payloads and statistics as they lie on disk, and damage named where it is met."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ingest.dataset import Dataset
from ingest.errors import DamageError, RefusedError
from tests.conftest import TinySource
from tests.ingest.pictures import reference
from tests.ingest.shards import arrow_rows, samples

DATASETS = ["tiny_dataset", "tiny_raw_dataset", "tiny_tfrecord_dataset", "tiny_raw_tfrecord_dataset"]


@pytest.mark.parametrize("name", DATASETS)
def test_every_sample_is_the_record_in_its_shard(name: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(name)
    for split in ("train", "val"):
        opened = Dataset.open(folder).split(split)
        found = [(opened.key(r), int(opened.label[r]), opened.payload(r)) for r in range(opened.num_samples)]
        assert found == [(s.key, s.label, s.payload) for s in samples(folder, split)]


def test_index_columns_are_those_of_the_index_file(tiny_dataset: str) -> None:
    opened, rows = Dataset.open(tiny_dataset).split("train"), arrow_rows(Path(tiny_dataset, "index/train.arrow"))
    for name in ("shard", "offset", "length", "label", "crc32c", "width", "height"):
        assert getattr(opened, name).tolist() == [row[name] for row in rows]
    assert opened.class_counts == tuple(np.bincount([row["label"] for row in rows]))


def test_pixels_of_a_raw_dataset_are_those_of_the_picture(tiny_raw_dataset: str, tiny_source: TinySource) -> None:
    opened = Dataset.open(tiny_raw_dataset).split("val")
    for row in range(0, opened.num_samples, 7):
        picture = tiny_source.folders / f"val/{opened.key(row)}.JPEG"
        np.testing.assert_array_equal(opened.pixels(row), reference(picture.read_bytes(), 256))
        assert (opened.pixels(row).shape, opened.pixels(row).dtype.name) == ((256, 256, 3), "uint8")


def test_nothing_on_disk_is_changed_through_a_mapped_shard(tiny_dataset: str) -> None:
    path = Path(tiny_dataset, "train/00000.arrow")
    before = path.read_bytes()
    Dataset.open(tiny_dataset).split("train").map_shard(0)[:] = 0
    assert path.read_bytes() == before


@pytest.mark.parametrize("path", ["statistics/mean.npy", "statistics/pca.json", "index/val.arrow"])
def test_a_changed_or_lost_index_or_statistic_is_met_on_opening(
    path: str, tiny_dataset: str, copied: Callable[[str], Path]
) -> None:
    dataset = copied(tiny_dataset)
    data = (dataset / path).read_bytes()
    (dataset / path).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(DamageError, match=rf"{path}: {len(data)} bytes that are not those that were sealed"):
        Dataset.open(str(dataset)).split("val")
    (dataset / path).unlink()
    with pytest.raises(DamageError, match=f"{path}: is gone"):
        Dataset.open(str(dataset)).split("val")


def test_a_changed_payload_and_a_cut_shard_are_met_on_reading(
    tiny_tfrecord_dataset: str, copied: Callable[[str], Path]
) -> None:
    dataset = copied(tiny_tfrecord_dataset)
    shard = dataset / "val/00000.tfrecord"
    row = arrow_rows(dataset / "index/val.arrow")[5]
    data = bytearray(shard.read_bytes())
    data[row["offset"] + row["length"] // 2] ^= 4
    shard.write_bytes(data)
    opened = Dataset.open(str(dataset)).split("val")
    opened.payload(4)
    with pytest.raises(DamageError, match=rf"val/00000\.tfrecord: the payload of {row['key']} at {row['offset']}"):
        opened.payload(5)
    shard.write_bytes(data[:-1])
    with pytest.raises(DamageError, match=rf"{len(data) - 1} bytes, the manifest states {len(data)}"):
        Dataset.open(str(dataset)).split("val").payload(0)


def test_what_is_no_sealed_dataset_is_refused_with_the_way_to_one(
    tiny_dataset: str, unsealed: Callable[[str], Path], tmp_path: Path
) -> None:
    with pytest.raises(RefusedError, match="has no split 'test'; it has train, val"):
        Dataset.open(tiny_dataset).split("test")
    with pytest.raises(RefusedError, match="no such dataset; `tench ingest SOURCE"):
        Dataset.open(str(tmp_path / "missing"))
    with pytest.raises(RefusedError, match="not finished; run the same `tench ingest` again"):
        Dataset.open(str(unsealed(tiny_dataset)))
    (tmp_path / "empty").mkdir()
    with pytest.raises(RefusedError, match=r"no dataset \(no manifest\.json\)"):
        Dataset.open(str(tmp_path / "empty"))
