"""Real ImageNet pictures, converted in both formats: complete, verified, one content id, the pixels of plain Pillow."""

import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ingest.settings import VerifySettings
from ingest.verify import verify
from tests.ingest.conftest import Convert
from tests.ingest.pictures import reference, scaled_then_cut
from tests.ingest.shards import samples


@pytest.fixture(scope="module")
def unpacked(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The two collections as class folders."""
    folder = tmp_path_factory.mktemp("real")
    for name in ("ilsvrc-samples-300", "imagenette-small"):
        with tarfile.open(shared_data / f"{name}.tar") as archive:
            archive.extractall(folder / name, filter="data")
    return folder


def _keys(folder: Path) -> list[str]:
    return sorted(f"{p.parent.name}/{p.stem}" for p in folder.rglob("*.JPEG"))


def _converted(convert: Convert, source: Path, out: Path, **settings: Any) -> list[dict[str, Any]]:
    """Facts of an Arrow and a TFRecord conversion, both verified."""
    facts = []
    for name in ("arrow", "tfrecord"):
        facts.append(convert(source, out / name, format=name, num_actors=2, samples_per_shard=128, **settings))
        assert verify(str(out / name), VerifySettings())["damages"] == []
    return facts


def test_pictures_of_three_hundred_classes_are_all_converted(unpacked: Path, convert: Convert, tmp_path: Path) -> None:
    source = unpacked / "ilsvrc-samples-300"
    arrow, tfrecord = _converted(convert, source, tmp_path, payload="raw")
    assert arrow["content_id"] == tfrecord["content_id"]
    assert (arrow["num_samples"], arrow["num_quarantined"], arrow["num_classes"]) == (300, 0, 300)
    stored = samples(tmp_path / "arrow", "train")
    assert sorted(s.key for s in stored) == _keys(source)
    assert samples(tmp_path / "tfrecord", "train") == stored
    files = {f"{p.parent.name}/{p.stem}": p for p in source.rglob("*.JPEG")}
    for sample in stored[::6]:
        assert sample.payload == reference(files[sample.key].read_bytes(), 256).tobytes(), sample.key
    plain = [scaled_then_cut(files[sample.key].read_bytes(), 256).astype(int).ravel() for sample in stored[::6]]
    off = np.abs(np.stack(plain) - np.stack([np.frombuffer(s.payload, np.uint8) for s in stored[::6]]))
    assert off.max() <= 2
    assert (off > 0).mean() < 0.005


def test_pictures_of_ten_classes_in_two_splits_are_all_converted(
    unpacked: Path, convert: Convert, tmp_path: Path
) -> None:
    source = unpacked / "imagenette-small"
    arrow, tfrecord = _converted(convert, source, tmp_path)
    assert arrow["content_id"] == tfrecord["content_id"]
    assert {split: facts["num_samples"] for split, facts in arrow["splits"].items()} == {"train": 1500, "val": 360}
    for split in ("train", "val"):
        stored = samples(tmp_path / "arrow", split)
        assert sorted(s.key for s in stored) == _keys(source / split)
        assert {s.wnid: s.label for s in stored} == {
            wnid: label for label, wnid in enumerate(sorted(p.name for p in (source / "train").iterdir()))
        }
