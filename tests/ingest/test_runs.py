"""Runs of one plan: the same bytes for any number of actors, after any break, and side by side with another run."""

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ingest.progress import RunReader, RunWriter
from ingest.run import ingest
from ingest.settings import IngestSettings, VerifySettings
from ingest.storage import Place
from ingest.verify import verify
from tests.conftest import TinySource
from tests.ingest.conftest import Convert


def _files(dataset: Path | str) -> dict[str, bytes]:
    """Every file of a dataset but the manifest, which states when it was made, and what was set aside."""
    paths = [p for p in Path(dataset).rglob("*") if p.is_file() and p.name != "manifest.json"]
    files = {str(p.relative_to(dataset)): p.read_bytes() for p in paths}
    return {name: data for name, data in files.items() if not name.startswith("damaged/")}


def _manifest(dataset: Path | str) -> dict[str, Any]:
    """What the manifest states, without the time."""
    record: dict[str, Any] = json.loads(Path(dataset, "manifest.json").read_text())
    return {name: value for name, value in record.items() if name not in ("created_at", "manifest_sha256")}


def _same(dataset: Path | str, other: Path | str) -> bool:
    return _manifest(dataset) == _manifest(other) and _files(dataset) == _files(other)


@pytest.mark.parametrize("num_actors", [1, 2])
def test_any_number_of_actors_writes_the_same_bytes(
    num_actors: int, tiny_source: TinySource, tiny_dataset: str, convert: Convert, tmp_path: Path
) -> None:
    convert(tiny_source.folders, tmp_path / "dataset", num_actors=num_actors)
    assert _same(tmp_path / "dataset", tiny_dataset)  # which three actors made


def test_archives_give_the_ids_of_class_folders(
    tiny_source: TinySource, tiny_dataset: str, convert: Convert, tmp_path: Path
) -> None:
    facts = convert(tiny_source.official, tmp_path / "dataset")
    wanted = _manifest(tiny_dataset)
    assert (facts["dataset_id"], facts["content_id"]) == (wanted["dataset_id"], wanted["content_id"])
    assert facts["num_samples"] == 90
    assert _manifest(tmp_path / "dataset")["classes"][0]["words"] == "red disc"


def test_a_rerun_of_a_sealed_dataset_does_nothing(tiny_source: TinySource, tiny_dataset: str, convert: Convert) -> None:
    before = {p: (p.stat().st_mtime_ns, p.stat().st_ino) for p in Path(tiny_dataset).rglob("*")}
    facts = convert(tiny_source.folders, tiny_dataset, num_actors=3, max_bad="7")
    assert (facts["dataset_id"], facts["samples_converted"]) == (_manifest(tiny_dataset)["dataset_id"], 0)
    assert {p: (p.stat().st_mtime_ns, p.stat().st_ino) for p in Path(tiny_dataset).rglob("*")} == before


def _cut(path: Path, keep: float = 0.5) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_run_goes_on_from_any_missing_or_cut_file_to_the_same_bytes(
    tiny_source: TinySource, tiny_tfrecord_dataset: str, unsealed: Callable[[str], Path], convert: Convert
) -> None:
    dataset = unsealed(tiny_tfrecord_dataset)
    (dataset / "train/00000.tfrecord").unlink()
    _cut(dataset / "train/00001.tfrecord")
    (dataset / "parts/train-00002.json").unlink()
    _cut(dataset / "parts/train-00003.json")
    (dataset / "val/00000.tfrecord").unlink()
    (dataset / "parts/val-00000.json").unlink()
    (dataset / "parts/val-00001.json").unlink()
    _cut(dataset / "val/00001.tfrecord")
    facts = convert(tiny_source.folders, dataset, format="tfrecord")
    assert facts["samples_converted"] == 90
    assert _same(dataset, tiny_tfrecord_dataset)


def test_a_run_mends_parts_and_shards_that_are_not_what_was_written(
    tiny_source: TinySource, tiny_dataset: str, unsealed: Callable[[str], Path], convert: Convert
) -> None:
    dataset = unsealed(tiny_dataset)
    _flip(dataset / "train/00000.arrow")
    (dataset / "parts/train-00001.npz").unlink()
    _cut(dataset / "parts/train-00002.npz", 0.9)
    _cut(dataset / "parts/val-00000.arrow", 0.9)
    (dataset / "parts/val-00001.json").unlink()
    _cut(dataset / "parts/val-00001.arrow", 0.9)
    (dataset / "plan/entries-val.arrow").unlink()
    facts = convert(tiny_source.folders, dataset)
    assert facts["samples_converted"] < 90
    assert _same(dataset, tiny_dataset)
    assert verify(str(dataset), VerifySettings())["ok"]


def test_only_what_is_missing_is_made_again(
    tiny_source: TinySource, tiny_dataset: str, unsealed: Callable[[str], Path], convert: Convert
) -> None:
    dataset = unsealed(tiny_dataset)
    (dataset / "parts/train-00003.json").unlink()
    assert convert(tiny_source.folders, dataset)["samples_converted"] == 12
    for path in ("parts", "train", "val"):
        shutil.rmtree(dataset / path)
    shutil.rmtree(dataset / "index")
    (dataset / "manifest.json").unlink()
    assert convert(tiny_source.folders, dataset)["samples_converted"] == 90
    assert _same(dataset, tiny_dataset)


def test_another_writer_of_other_bytes_is_an_error_that_names_the_file(
    tiny_source: TinySource, tiny_dataset: str, unsealed: Callable[[str], Path], convert: Convert
) -> None:
    dataset = unsealed(tiny_dataset)
    (dataset / "parts/val-00001.json").unlink()
    _flip(dataset / "val/00001.arrow")
    with pytest.raises(Exception, match=r"val/00001\.arrow: another writer of this plan put other bytes"):
        convert(tiny_source.folders, dataset)


def test_two_runs_of_one_plan_work_side_by_side(
    tiny_source: TinySource, tiny_dataset: str, ray_session: None, tmp_path: Path
) -> None:
    facts: dict[int, dict[str, Any]] = {}

    def run(number: int) -> None:
        writer = RunWriter.begin(Place(tmp_path / f"run{number}"), "ingest", {})
        settings = IngestSettings(samples_per_shard=16, num_actors=1)
        facts[number] = ingest(str(tiny_source.folders), str(tmp_path / "dataset"), settings, writer)

    threads = [threading.Thread(target=run, args=(number,)) for number in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(200)
    assert facts[1]["dataset_id"] == facts[2]["dataset_id"] == _manifest(tiny_dataset)["dataset_id"]
    assert _same(tmp_path / "dataset", tiny_dataset)


def test_half_written_files_of_the_dead_do_not_count(
    tiny_source: TinySource, tiny_dataset: str, convert: Convert, tmp_path: Path
) -> None:
    dataset = tmp_path / "dataset"
    dataset.mkdir()
    (dataset / "plan.json#1").write_bytes(b"half")
    assert convert(tiny_source.folders, dataset)["dataset_id"] == _manifest(tiny_dataset)["dataset_id"]
    (dataset / "train/00000.arrow#1").write_bytes(b"half")
    assert verify(str(dataset), VerifySettings())["ok"]


def test_a_dataset_knows_no_path_outside_and_can_be_moved(
    tiny_source: TinySource, tiny_dataset: str, tmp_path: Path
) -> None:
    outside = [str(tiny_source.folders.parent).encode(), str(Path(tiny_dataset).parent).encode()]
    for name, data in {**_files(tiny_dataset), "": Path(tiny_dataset, "manifest.json").read_bytes()}.items():
        assert not any(path in data for path in outside), name
    moved = tmp_path / "elsewhere" / "another name"
    shutil.copytree(tiny_dataset, moved)
    assert verify(str(moved), VerifySettings())["ok"]


def test_a_run_tells_its_shards_and_counts_every_picture(
    tiny_source: TinySource, ray_session: None, tmp_path: Path
) -> None:
    place = Place(tmp_path / "run")
    writer = RunWriter.begin(place, "ingest", {})
    settings = IngestSettings(samples_per_shard=16, num_actors=1, side=32)
    ingest(str(tiny_source.folders), str(tmp_path / "dataset"), settings, writer)
    writer.finish("succeeded", 0)
    events = list(RunReader(place).events())
    assert sum(e.data["num_samples"] for e in events if e.kind == "shard") == 90
    assert [e.kind for e in events].count("shard") == 6
    assert [e.kind for e in events][-1] == "sealed"
    progress = RunReader(place).progress()
    assert progress is not None
    assert (progress.phase, progress.done, progress.total) == ("sealing", 90, 90)
