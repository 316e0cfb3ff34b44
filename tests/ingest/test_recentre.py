"""Centred datasets: int16 of 128 x (pixel - mean), everything else the parent's, and never over anything else."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ingest.centring import centred, restored
from ingest.dataset import Dataset
from ingest.errors import DamageError, RefusedError
from ingest.look import contact_sheet, inspected
from ingest.manifest import read_manifest
from ingest.progress import RunWriter
from ingest.recentre import recentre
from ingest.settings import RecentreSettings, VerifySettings
from ingest.storage import Place
from ingest.verify import verify
from tests.ingest.conftest import Convert
from tests.ingest.pictures import file_of, noise
from tests.ingest.shards import Sample, arrow_rows, quarantined, samples, shards

Recentre = Callable[[str | Path, str | Path], dict[str, Any]]
SIDE = 256


@pytest.fixture(scope="module")
def made(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Recentre:
    """Make a centred dataset; the facts."""

    def run(dataset: str | Path, out: str | Path) -> dict[str, Any]:
        writer = RunWriter.begin(Place(tmp_path_factory.mktemp("run")), "recentre", {})
        return recentre(str(dataset), str(out), RecentreSettings(num_actors=2), writer)

    return run


@pytest.fixture(scope="module")
def centred_dataset(tiny_raw_dataset: str, made: Recentre, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The centred dataset of `tiny_raw_dataset`."""
    out = tmp_path_factory.mktemp("centred") / "dataset"
    made(tiny_raw_dataset, out)
    return out


def _pixels(sample: Sample) -> npt.NDArray[np.uint8]:
    return np.frombuffer(sample.payload, np.uint8).reshape(SIDE, SIDE, 3)


def _wanted(raw: str, split: str) -> list[Sample]:
    """The centred samples of a raw dataset, by NumPy and from the stored pixels alone."""
    mean = np.mean([_pixels(s) for s in samples(raw, "train")], axis=0, dtype=np.float64)
    centre = [np.round(128 * (_pixels(s).astype(np.float64) - mean)).astype("<i2") for s in samples(raw, split)]
    return [
        Sample(s.key, s.label, s.wnid, values.tobytes()) for s, values in zip(samples(raw, split), centre, strict=True)
    ]


@pytest.mark.parametrize("split", ["train", "val"])
def test_every_payload_is_128_times_the_pixel_less_the_mean(
    tiny_raw_dataset: str, centred_dataset: Path, split: str
) -> None:
    assert samples(centred_dataset, split) == _wanted(tiny_raw_dataset, split)


def test_halves_are_rounded_to_even_and_the_extremes_fit() -> None:
    pixels = np.array([[[0, 255, 1], [1, 1, 1]]], np.uint8)
    mean = np.array([[[255.0, 0.0, 1 - 0.5 / 128], [1 - 1.5 / 128, 1 + 0.5 / 128, 1 + 1.5 / 128]]])
    values = np.frombuffer(centred(pixels, mean), "<i2").tolist()
    assert values == [-32640, 32640, 0, 2, 0, -2]


def test_the_pixels_come_back_exactly() -> None:
    pixels = np.arange(256, dtype=np.uint8).repeat(3 * 64).reshape(128, 128, 3)
    mean = np.random.default_rng(0).uniform(0, 255, pixels.shape)
    np.testing.assert_array_equal(restored(centred(pixels, mean), mean), pixels)


def test_ids_name_the_parent_and_the_rest_is_the_parents(tiny_raw_dataset: str, centred_dataset: Path) -> None:
    raw, new = read_manifest(Place(tiny_raw_dataset)), read_manifest(Place(centred_dataset))
    assert (new.parent, raw.parent) == (raw.dataset_id, None)
    assert new.dataset_id != raw.dataset_id
    assert new.content_id != raw.content_id
    assert new.model_copy(update={"parent": "0" * 64}).computed_dataset_id() != new.dataset_id
    assert {**new.settings, "payload": "raw"} == raw.settings
    for name in ("classes", "plan_hash", "listing_hash", "pixel_fingerprint", "sums_sha256", "layout", "quarantine"):
        assert getattr(new, name) == getattr(raw, name), name
    for path in [p for p in raw.files if p.startswith("plan/")] + ["statistics/sums.npz", "statistics/mean.npy"]:
        assert (centred_dataset / path).read_bytes() == Path(tiny_raw_dataset, path).read_bytes(), path
    index = [arrow_rows(Path(d, "index/val.arrow")) for d in (tiny_raw_dataset, centred_dataset)]
    for name in ("key", "label", "shard", "width", "height"):
        assert [row[name] for row in index[0]] == [row[name] for row in index[1]], name
    plan = json.loads((centred_dataset / "plan.json").read_text())
    assert (plan["parent"], plan["settings"]["payload"]) == (raw.dataset_id, "centered")


def test_the_id_of_a_dataset_without_parent_covers_no_parent(tiny_raw_dataset: str) -> None:
    stored = json.loads(Path(tiny_raw_dataset, "manifest.json").read_text())
    covered = {name: stored[name] for name in ("format_version", "settings", "pixel_fingerprint", "plan_hash")} | {
        "classes": [c["wnid"] for c in stored["classes"]],
        "shards": {
            name: [[s["path"], s["sha256"], s["num_samples"]] for s in split["shards"]]
            for name, split in stored["splits"].items()
        },
        "sums": stored["sums_sha256"],
        "quarantine": [],
    }
    text = json.dumps(covered, sort_keys=True, separators=(",", ":"))
    assert hashlib.sha256(text.encode()).hexdigest() == stored["dataset_id"]


def test_it_opens_verifies_and_looks_like_its_parent(tiny_raw_dataset: str, centred_dataset: Path) -> None:
    opened = Dataset.open(str(centred_dataset))
    assert (opened.payload, opened.side, opened.format) == ("centered", SIDE, "arrow")
    assert verify(str(centred_dataset), VerifySettings(deep=True))["damages"] == []
    assert inspected(str(centred_dataset))["parent"] == inspected(tiny_raw_dataset)["dataset_id"]
    np.testing.assert_array_equal(contact_sheet(str(centred_dataset)), contact_sheet(tiny_raw_dataset))


def test_tfrecord_files_hold_the_same_samples(
    tiny_raw_tfrecord_dataset: str, centred_dataset: Path, made: Recentre, tmp_path: Path
) -> None:
    facts = made(tiny_raw_tfrecord_dataset, tmp_path / "out")
    assert facts["content_id"] == read_manifest(Place(centred_dataset)).content_id
    assert [s.suffix for s in shards(tmp_path / "out", "val")] == [".tfrecord"] * 2
    assert samples(tmp_path / "out", "val") == samples(centred_dataset, "val")
    assert verify(str(tmp_path / "out"), VerifySettings())["damages"] == []


def test_what_was_in_quarantine_still_is(convert: Convert, made: Recentre, tmp_path: Path) -> None:
    source = tmp_path / "source/n1"
    source.mkdir(parents=True)
    for at in range(4):
        (source / f"{at}.JPEG").write_bytes(file_of(noise(20, 20, at)))
    (source / "bad.JPEG").write_bytes(b"no picture")
    convert(tmp_path / "source", tmp_path / "raw", payload="raw", side=16, max_bad="1", samples_per_shard=2)
    facts = made(tmp_path / "raw", tmp_path / "out")
    assert (facts["num_samples"], facts["num_quarantined"]) == (4, 1)
    assert quarantined(tmp_path / "out") == {("train", "n1/bad"): ("not a picture", b"no picture")}
    assert verify(str(tmp_path / "out"), VerifySettings())["damages"] == []


def test_a_rerun_keeps_what_is_there_and_ends_at_the_same_id(
    tiny_raw_dataset: str, centred_dataset: Path, made: Recentre, unsealed: Callable[[str], Path]
) -> None:
    wanted = read_manifest(Place(centred_dataset)).dataset_id
    begun = unsealed(str(centred_dataset))
    (begun / "parts/train-00001.json").unlink()
    cut = begun / "train/00002.arrow"
    cut.write_bytes(cut.read_bytes()[:-5])
    kept = {p: p.stat().st_mtime_ns for p in [*begun.glob("parts/*0.json"), begun / "train/00000.arrow"]}
    assert made(tiny_raw_dataset, begun)["dataset_id"] == wanted
    assert {p: p.stat().st_mtime_ns for p in kept} == kept
    assert verify(str(begun), VerifySettings())["damages"] == []
    before = {p: p.stat().st_mtime_ns for p in begun.rglob("*")}
    assert made(tiny_raw_dataset, begun)["dataset_id"] == wanted
    assert {p: p.stat().st_mtime_ns for p in begun.rglob("*")} == before


def test_only_raw_datasets_can_be_centred(
    tiny_dataset: str, centred_dataset: Path, made: Recentre, tmp_path: Path
) -> None:
    for parent, payload in ((tiny_dataset, "jpeg"), (centred_dataset, "centered")):
        with pytest.raises(RefusedError, match=f"holds {payload} payloads.*--payload raw") as refused:
            made(parent, tmp_path / "out")
        assert refused.value.exit_code == 3
    assert not (tmp_path / "out").exists()


def test_a_target_that_is_not_empty_or_of_another_parent_is_refused(
    tiny_raw_dataset: str,
    tiny_raw_tfrecord_dataset: str,
    tiny_dataset: str,
    centred_dataset: Path,
    made: Recentre,
    tmp_path: Path,
) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(RefusedError, match="is not empty"):
        made(tiny_raw_dataset, tmp_path)
    with pytest.raises(RefusedError, match=f"made of dataset {read_manifest(Place(tiny_raw_dataset)).dataset_id}"):
        made(tiny_raw_tfrecord_dataset, centred_dataset)
    with pytest.raises(RefusedError, match="was made of pictures"):
        made(tiny_raw_dataset, tiny_dataset)
    with pytest.raises(RefusedError, match="lies inside"):
        made(tiny_raw_dataset, Path(tiny_raw_dataset, "out"))


def test_a_damaged_parent_is_named_and_not_passed_on(
    tiny_raw_dataset: str, made: Recentre, copied: Callable[[str], Path], tmp_path: Path
) -> None:
    parent = copied(tiny_raw_dataset)
    row = arrow_rows(parent / "index/val.arrow")[3]
    shard = parent / f"val/{row['shard']:05d}.arrow"
    data = bytearray(shard.read_bytes())
    data[row["offset"] + 100] ^= 4
    shard.write_bytes(data)
    with pytest.raises(DamageError, match=f"{shard.name}.*{row['key']}") as damage:
        made(parent, tmp_path / "out")
    assert damage.value.exit_code == 4
    assert not (tmp_path / "out/manifest.json").exists()
