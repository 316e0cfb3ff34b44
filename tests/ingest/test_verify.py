"""Verification: passes what is whole, and finds and names whatever was changed, even with its hashes restated."""

import json
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.cli.app import run
from ingest.errors import DamageError, Interrupted, RefusedError, TenchError
from ingest.progress import RunReader, RunWriter
from ingest.settings import VerifySettings
from ingest.storage import Place
from ingest.verify import verify
from tests.conftest import TinySource
from tests.ingest.damaging import damages, flip, rewrite, sealed_again
from tests.ingest.shards import arrow_rows
from tests.s3_server import s3_server

FLIPS = 40


@pytest.mark.parametrize(
    "name", ["tiny_dataset", "tiny_raw_dataset", "tiny_tfrecord_dataset", "tiny_raw_tfrecord_dataset"]
)
def test_a_whole_dataset_passes(name: str, request: pytest.FixtureRequest) -> None:
    facts = verify(request.getfixturevalue(name), VerifySettings(deep=True))
    assert (facts["ok"], facts["damages"], facts["num_samples"]) == (True, [], 90)


@pytest.mark.parametrize(
    "path",
    ["train/00000.arrow", "val/00001.arrow", "index/train.arrow", "index/val.arrow", "statistics/mean.npy",
     "statistics/pca.json", "statistics/sums.npz", "statistics/mean.png", "plan.json", "plan/entries-train.arrow",
     "parts/train-00000.json", "parts/train-00000.npz", "parts/val-00000.arrow"],
)  # fmt: skip
def test_a_flipped_bit_a_cut_and_a_loss_are_found_and_named(
    path: str, tiny_dataset: str, copied: Callable[[str], Path]
) -> None:
    file = copied(tiny_dataset) / path
    good, dataset = file.read_bytes(), file.parents[path.count("/")]
    flip(file, len(good) * 4)
    found = damages(dataset)
    assert (list(found), found[path].split(" (SHA-256")[0]) == ([path], "same size, other bytes")
    file.write_bytes(good[:-1])
    found = damages(dataset)
    assert (list(found), found[path].split("; ")[:2]) == (
        [path], [f"has {len(good) - 1} bytes", f"{len(good)} were sealed"],
    )  # fmt: skip
    file.unlink()
    assert damages(dataset) == {path: "is gone"}


def test_a_changed_manifest_is_damage_and_a_missing_one_no_dataset(
    tiny_dataset: str, copied: Callable[[str], Path]
) -> None:
    dataset = copied(tiny_dataset)
    manifest = dataset / "manifest.json"
    good = manifest.read_text()
    for bad, words in (
        (good.replace('"num_samples":60', '"num_samples":61'), "does not have the hash it states"),
        (good[:-10], "not a manifest"),
        ("[]", "not a manifest"),
    ):
        manifest.write_text(bad)
        with pytest.raises(DamageError, match=rf"manifest\.json: {words}") as damage:
            verify(str(dataset), VerifySettings())
        assert damage.value.exit_code == 4
    manifest.unlink()
    with pytest.raises(RefusedError, match="a dataset that is not finished"):
        verify(str(dataset), VerifySettings())


def test_ids_that_do_not_follow_from_the_facts_are_damage(tiny_dataset: str, copied: Callable[[str], Path]) -> None:
    dataset = copied(tiny_dataset)
    good = (dataset / "manifest.json").read_bytes()
    for name in ("dataset_id", "content_id", "plan_hash", "pixel_fingerprint"):
        sealed_again(dataset, **{name: "0" * 64})
        with pytest.raises(DamageError, match="its ids do not follow from its facts"):
            verify(str(dataset), VerifySettings())
        (dataset / "manifest.json").write_bytes(good)


def test_a_file_that_does_not_belong_is_named(tiny_dataset: str, copied: Callable[[str], Path]) -> None:
    dataset = copied(tiny_dataset)
    (dataset / "train/00009.arrow").write_bytes(b"")
    (dataset / "notes.txt").write_text("mine")
    problem = "is not part of the dataset; remove it"
    assert damages(dataset) == {"notes.txt": problem, "train/00009.arrow": problem}


def test_swapped_labels_are_found_though_every_hash_is_restated(
    tiny_dataset: str, copied: Callable[[str], Path]
) -> None:
    dataset = copied(tiny_dataset)

    def swap(columns: dict[str, list[Any]]) -> None:
        labels = columns["label"]
        other = next(at for at, label in enumerate(labels) if label != labels[0])
        labels[0], labels[other] = labels[other], labels[0]

    key, other = (arrow_rows(dataset / "index/train.arrow")[at]["key"] for at in (0, 1))
    rewrite(dataset / "index/train.arrow", swap)
    sealed_again(dataset)
    found = damages(dataset)
    assert list(found) == ["index/train.arrow"]
    assert f"against the plan: 2 keys of another label: {key} (" in found["index/train.arrow"]
    assert f"row 0 ({key}): has label" in found["index/train.arrow"]
    assert f"row 1 ({other}): has label" in found["index/train.arrow"]
    rewrite(dataset / "plan/entries-train.arrow", swap)
    sealed_again(dataset)
    assert "do not have its plan hash" in damages(dataset)["plan.json"]


def test_swapped_pictures_are_found_though_every_hash_is_restated(
    tiny_dataset: str, copied: Callable[[str], Path]
) -> None:
    dataset = copied(tiny_dataset)

    def swap(columns: dict[str, list[Any]]) -> None:
        for name in ("offset", "length", "crc32c"):
            columns[name][3], columns[name][4] = columns[name][4], columns[name][3]

    rewrite(dataset / "index/val.arrow", swap)
    sealed_again(dataset)
    found = damages(dataset)
    assert list(found) == ["index/val.arrow"]
    assert "row 3 (" in found["index/val.arrow"]
    assert "row 4 (" in found["index/val.arrow"]


@pytest.mark.parametrize("column", ["offset", "length", "crc32c", "key"])
def test_an_index_that_leads_elsewhere_is_found_though_every_hash_is_restated(
    column: str, tiny_tfrecord_dataset: str, copied: Callable[[str], Path]
) -> None:
    dataset = copied(tiny_tfrecord_dataset)

    def spoil(columns: dict[str, list[Any]]) -> None:
        columns[column][3] = columns[column][4]

    rewrite(dataset / "index/val.arrow", spoil)
    sealed_again(dataset)
    found = damages(dataset)
    assert list(found) == ["index/val.arrow"]
    assert re.search(rf"row 3 \(n\S+\): has {column} \S+, parts/val-00000.arrow states", found["index/val.arrow"])


def test_statistics_that_do_not_follow_from_the_sums_are_found(
    tiny_raw_dataset: str, copied: Callable[[str], Path]
) -> None:
    dataset = copied(tiny_raw_dataset)
    mean, pca = dataset / "statistics/mean.npy", dataset / "statistics/pca.json"
    values = np.load(mean)
    values[7, 7, 1] += 1e-3
    np.save(mean, values)
    record = json.loads(pca.read_text())
    record["eigenvalues"][2] *= 1.01
    pca.write_text(json.dumps(record))
    sealed_again(dataset)
    assert damages(dataset) == {
        "statistics/mean.npy": "does not follow from the sums",
        "statistics/pca.json": "eigenvalues do not follow from the sums",
    }


@pytest.mark.parametrize("name", ["tiny_dataset", "tiny_tfrecord_dataset"])
def test_no_flipped_bit_in_any_file_goes_unseen(
    name: str, request: pytest.FixtureRequest, copied: Callable[[str], Path]
) -> None:
    dataset = copied(request.getfixturevalue(name))
    files = sorted(p for p in dataset.rglob("*") if p.is_file() and p.stat().st_size)
    choices = random.Random(name)
    for _ in range(FLIPS):
        path = choices.choice(files)
        bit = choices.randrange(path.stat().st_size * 8)
        flip(path, bit)
        found = str(path.relative_to(dataset))
        try:
            said = damages(dataset)
            assert list(said) == [found], (found, bit)
            if found.startswith(("train/", "val/")):
                assert re.search(r"record \d+ \(n|no record is affected|Arrow file|metadata", said[found]), said
        except TenchError as error:
            assert found in error.message, (found, bit)  # noqa: PT017
        flip(path, bit)
    assert damages(dataset) == {}


def test_a_source_that_lists_other_pictures_is_told_by_key(
    tiny_source: TinySource, tiny_dataset: str, tmp_path: Path
) -> None:
    source = shutil.copytree(tiny_source.folders, tmp_path / "source")
    one, other = sorted(p for p in (source / "train").iterdir())[:2]
    gone, moved, grown = sorted(one.iterdir())[:3]
    gone.unlink()
    moved.rename(other / moved.name)
    grown.write_bytes(grown.read_bytes() + b"x")
    for path, ok in ((tiny_source.folders, True), (tiny_source.official, True), (source, False)):
        facts = verify(tiny_dataset, VerifySettings(source=str(path)))
        assert facts["ok"] is ok, facts["damages"]
    said = [d["problem"] for d in facts["damages"]]
    assert {d["path"] for d in facts["damages"]} == {str(source)}
    assert said == [
        f"split train: 2 keys missing: {one.name}/{gone.stem}, {one.name}/{moved.stem}",
        f"split train: 1 key extra: {other.name}/{moved.stem}",
        f"split train: 1 key of another size in bytes: {one.name}/{grown.stem} "
        f"({grown.stat().st_size}, expected {grown.stat().st_size - 1})",
    ]


def test_a_class_by_another_name_is_told(tiny_source: TinySource, tiny_dataset: str, tmp_path: Path) -> None:
    source = shutil.copytree(tiny_source.folders, tmp_path / "source")
    for split in ("train", "val"):
        (source / split / "n90000011").rename(source / split / "n00000001")
    said = [d["problem"] for d in verify(tiny_dataset, VerifySettings(source=str(source)))["damages"]]
    assert said[:2] == ["classes: 1 key missing: n90000011", "classes: 1 key extra: n00000001"]
    assert any(words.startswith("split train: 6 keys missing: n90000011/") for words in said)


def test_progress_counts_every_file_to_the_end(tiny_dataset: str, tmp_path: Path) -> None:
    writer = RunWriter.begin(Place(tmp_path), "verify", {})
    facts = verify(tiny_dataset, VerifySettings(), writer)
    last = RunReader(Place(tmp_path)).progress(writer.attempt)
    assert last is not None
    assert (last.done, last.total, last.unit) == (facts["num_files"], facts["num_files"], "files")
    assert facts["num_files"] == sum(p.is_file() for p in Path(tiny_dataset).rglob("*"))


def test_a_stop_ends_it(tiny_dataset: str, tmp_path: Path) -> None:
    writer = RunWriter.begin(Place(tmp_path), "verify", {})
    writer.request_stop()
    with pytest.raises(Interrupted, match="Stopped before all files were looked at"):
        verify(tiny_dataset, VerifySettings(), writer)


def test_a_dataset_in_an_object_store_is_verified_there(
    tiny_dataset: str, monkeypatch: pytest.MonkeyPatch, copied: Callable[[str], Path]
) -> None:
    with s3_server("verified") as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        place = Place("s3://verified/dataset")
        dataset = Path(tiny_dataset)
        for file in sorted(p for p in dataset.rglob("*") if p.is_file()):
            place.put_new(str(file.relative_to(dataset)), file.read_bytes())
        assert verify(place.uri, VerifySettings())["damages"] == []
        row = arrow_rows(dataset / "index/val.arrow")[1]
        data = bytearray(place.get("val/00000.arrow"))
        data[row["offset"]] ^= 1
        place.replace("val/00000.arrow", bytes(data))
        place.delete("parts/val-00001.json")
        found = damages(place.uri)
        assert found["parts/val-00001.json"] == "is gone"
        assert f"record 1 ({row['key']}): its payload" in found["val/00000.arrow"]


def test_the_command_leaves_with_0_4_and_3(
    tiny_dataset: str, copied: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("TENCH_HOME", str(tmp_path / "home"))
    dataset = copied(tiny_dataset)
    assert run(["verify", str(dataset), "--json"]) == 0
    (dataset / "val/00001.arrow").unlink()
    capsys.readouterr()
    assert run(["verify", str(dataset), "--json"]) == 4
    assert json.loads(capsys.readouterr().out)["damages"] == [{"path": "val/00001.arrow", "problem": "is gone"}]
    assert run(["verify", str(dataset), "--source", str(tmp_path / "none")]) == 3
    assert "none: no such folder" in capsys.readouterr().err
