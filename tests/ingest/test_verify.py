"""Verification: passes what is whole, and finds and names whatever was changed, even with its hashes restated."""

import hashlib
import json
import random
import re
import shutil
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from moto.server import ThreadedMotoServer

from cluster.cli import run
from ingest.errors import DamageError, Interrupted, RefusedError, TenchError
from ingest.progress import RunReader, RunWriter
from ingest.settings import VerifySettings
from ingest.storage import Place
from ingest.verify import verify
from tests.conftest import TinySource
from tests.ingest.shards import arrow_rows, tfrecords

FLIPS = 40


def _damages(dataset: Path | str) -> dict[str, str]:
    """path -> its problems."""
    found: dict[str, str] = {}
    for damage in verify(str(dataset), VerifySettings())["damages"]:
        found[damage["path"]] = "; ".join(filter(None, (found.get(damage["path"]), damage["problem"])))
    return found


def _flip(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def _sealed_again(dataset: Path, **changed: Any) -> None:
    """State the hashes of the files as they are now: the manifest fits them, and itself."""
    path = dataset / "manifest.json"
    record = json.loads(path.read_text())
    del record["manifest_sha256"]
    for files in (record["files"], record["derived"]):
        for name in files:
            data = (dataset / name).read_bytes()
            files[name] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    record |= changed
    text = json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    record["manifest_sha256"] = hashlib.sha256(text.encode()).hexdigest()
    path.write_text(json.dumps(record))


def _rewrite(path: Path, change: Callable[[dict[str, list[Any]]], None]) -> None:
    """Change the columns of an Arrow file."""
    table = pa.ipc.open_file(path.read_bytes()).read_all()
    columns = table.to_pydict()
    change(columns)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(pa.table(columns, schema=table.schema))


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
    _flip(file, len(good) * 4)
    found = _damages(dataset)
    assert (list(found), found[path].split(" (SHA-256")[0]) == ([path], "same size, other bytes")
    file.write_bytes(good[:-1])
    found = _damages(dataset)
    assert (list(found), found[path].split("; ")[:2]) == (
        [path], [f"has {len(good) - 1} bytes", f"{len(good)} were sealed"],
    )  # fmt: skip
    file.unlink()
    assert _damages(dataset) == {path: "is gone"}


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
        _sealed_again(dataset, **{name: "0" * 64})
        with pytest.raises(DamageError, match="its ids do not follow from its facts"):
            verify(str(dataset), VerifySettings())
        (dataset / "manifest.json").write_bytes(good)


def test_a_file_that_does_not_belong_is_named(tiny_dataset: str, copied: Callable[[str], Path]) -> None:
    dataset = copied(tiny_dataset)
    (dataset / "train/00009.arrow").write_bytes(b"")
    (dataset / "notes.txt").write_text("mine")
    problem = "is not part of the dataset; remove it"
    assert _damages(dataset) == {"notes.txt": problem, "train/00009.arrow": problem}


def test_swapped_labels_are_found_though_every_hash_is_restated(
    tiny_dataset: str, copied: Callable[[str], Path]
) -> None:
    dataset = copied(tiny_dataset)

    def swap(columns: dict[str, list[Any]]) -> None:
        labels = columns["label"]
        other = next(at for at, label in enumerate(labels) if label != labels[0])
        labels[0], labels[other] = labels[other], labels[0]

    key, other = (arrow_rows(dataset / "index/train.arrow")[at]["key"] for at in (0, 1))
    _rewrite(dataset / "index/train.arrow", swap)
    _sealed_again(dataset)
    found = _damages(dataset)
    assert list(found) == ["index/train.arrow"]
    assert f"against the plan: 2 keys of another label: {key} (" in found["index/train.arrow"]
    assert f"row 0 ({key}): has label" in found["index/train.arrow"]
    assert f"row 1 ({other}): has label" in found["index/train.arrow"]
    _rewrite(dataset / "plan/entries-train.arrow", swap)
    _sealed_again(dataset)
    assert "do not have its plan hash" in _damages(dataset)["plan.json"]


def test_swapped_pictures_are_found_though_every_hash_is_restated(
    tiny_dataset: str, copied: Callable[[str], Path]
) -> None:
    dataset = copied(tiny_dataset)

    def swap(columns: dict[str, list[Any]]) -> None:
        for name in ("offset", "length", "crc32c"):
            columns[name][3], columns[name][4] = columns[name][4], columns[name][3]

    _rewrite(dataset / "index/val.arrow", swap)
    _sealed_again(dataset)
    found = _damages(dataset)
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

    _rewrite(dataset / "index/val.arrow", spoil)
    _sealed_again(dataset)
    found = _damages(dataset)
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
    _sealed_again(dataset)
    assert _damages(dataset) == {
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
        _flip(path, bit)
        found = str(path.relative_to(dataset))
        try:
            damages = _damages(dataset)
            assert list(damages) == [found], (found, bit)
            if found.startswith(("train/", "val/")):
                assert re.search(r"record \d+ \(n|no record is affected|Arrow file|metadata", damages[found]), damages
        except TenchError as error:
            assert found in error.message, (found, bit)  # noqa: PT017
        _flip(path, bit)
    assert _damages(dataset) == {}


@pytest.mark.parametrize("name", ["tiny_dataset", "tiny_raw_tfrecord_dataset"])
def test_a_damaged_payload_is_named_by_record_key_and_place(
    name: str, request: pytest.FixtureRequest, copied: Callable[[str], Path]
) -> None:
    dataset = copied(request.getfixturevalue(name))
    rows = [r for r in arrow_rows(dataset / "index/train.arrow") if r["shard"] == 1]
    path = next((dataset / "train").glob("00001.*w")) if name == "tiny_dataset" else dataset / "train/00001.tfrecord"
    for number in (0, 7, 15):
        row = rows[number]
        bit = (row["offset"] + row["length"] // 2) * 8 + 3
        _flip(path, bit)
        problem = f"record {number} ({row['key']}): its payload at {row['offset']} has another checksum"
        hash_problem, *others = _damages(dataset)[f"train/{path.name}"].split("; ")
        assert (hash_problem[:10], others) == ("same size,", [problem])
        _flip(path, bit)


@pytest.mark.parametrize("index_too", [False, True], ids=["", "index damaged too"])
def test_payloads_are_told_apart_as_long_as_one_copy_of_the_index_rows_is_whole(
    index_too: bool, tiny_dataset: str, copied: Callable[[str], Path]
) -> None:
    dataset = copied(tiny_dataset)
    rows = arrow_rows(dataset / "index/val.arrow")
    _flip(dataset / "val/00000.arrow", rows[5]["offset"] * 8)
    other = dataset / ("index/val.arrow" if index_too else "parts/val-00000.arrow")
    other.write_bytes(other.read_bytes()[:-100])
    found = _damages(dataset)
    assert f"record 5 ({rows[5]['key']})" in found["val/00000.arrow"]
    assert "cannot be read as an Arrow file" in found[str(other.relative_to(dataset))]
    assert len(found) == 2


def test_each_part_of_a_tfrecord_is_told_apart(tiny_tfrecord_dataset: str, copied: Callable[[str], Path]) -> None:
    dataset = copied(tiny_tfrecord_dataset)
    path = dataset / "val/00000.tfrecord"
    starts = [start for start, _ in tfrecords(path.read_bytes())]
    key = arrow_rows(dataset / "index/val.arrow")[2]["key"]
    start, end = starts[2], starts[3]
    for at, words in (
        (start, f"its length at {start}, or the checksum of its length, is wrong"),
        (start + 11, f"its length at {start}, or the checksum of its length, is wrong"),
        (start + 30, f"its features at {start + 12} (label, class, name, sizes) are not those of the index"),
        (end - 5, "has another checksum"),
        (end - 1, f"the checksum of its message, at {end - 4}, is wrong"),
    ):
        _flip(path, at * 8 + 1)
        (found,) = _damages(dataset).values()
        assert (found.count("record"), f"record 2 ({key}): " in found, words in found) == (1, True, True), found
        _flip(path, at * 8 + 1)


def test_a_damaged_line_of_the_idx_is_named(tiny_tfrecord_dataset: str, copied: Callable[[str], Path]) -> None:
    dataset = copied(tiny_tfrecord_dataset)
    path = dataset / "train/00002.idx"
    lines = path.read_bytes().split(b"\n")
    key = [r["key"] for r in arrow_rows(dataset / "index/train.arrow") if r["shard"] == 2][4]
    path.write_bytes(b"\n".join([*lines[:4], b"1" + lines[4][1:], *lines[5:]]))
    expected = lines[4].decode()
    assert (
        f"line 4 of record 4 ({key}) is '1{expected[1:]}', expected '{expected}'"
        in _damages(dataset)["train/00002.idx"]
    )


@pytest.mark.parametrize("name", ["tiny_dataset", "tiny_tfrecord_dataset"])
def test_a_cut_shard_names_the_first_record_that_is_lost(
    name: str, request: pytest.FixtureRequest, copied: Callable[[str], Path]
) -> None:
    dataset = copied(request.getfixturevalue(name))
    path = next(p for p in (dataset / "train").iterdir() if p.name in ("00000.arrow", "00000.tfrecord"))
    row = arrow_rows(dataset / "index/train.arrow")[9]
    path.write_bytes(path.read_bytes()[: row["offset"] + 10])
    (found,) = _damages(dataset).values()
    assert f"record 9 ({row['key']}): " in found
    assert "record 8 (" not in found
    assert "is cut" in found


def test_missing_and_extra_shards_are_named(tiny_tfrecord_dataset: str, copied: Callable[[str], Path]) -> None:
    dataset = copied(tiny_tfrecord_dataset)
    shutil.copy(dataset / "val/00000.tfrecord", dataset / "val/00002.tfrecord")
    (dataset / "train/00001.tfrecord").unlink()
    assert _damages(dataset) == {
        "train/00001.tfrecord": "is gone", "val/00002.tfrecord": "is not part of the dataset; remove it"
    }  # fmt: skip


@pytest.mark.parametrize("path", ["index/train.arrow", "parts/train-00001.arrow"])
def test_a_flipped_bit_in_the_index_is_named_by_row_and_column(
    path: str, tiny_dataset: str, copied: Callable[[str], Path]
) -> None:
    dataset = copied(tiny_dataset)
    row = [r for r in arrow_rows(dataset / "index/train.arrow") if r["shard"] == 1][6]
    data = (dataset / path).read_bytes()
    (at,) = [m.start() for m in re.finditer(re.escape(row["crc32c"].to_bytes(4, "little")), data)]
    _flip(dataset / path, at * 8)
    (found,) = _damages(dataset).values()
    assert f"row 6 ({row['key']}): has crc32c {row['crc32c'] ^ 1}, " in found
    assert found.endswith(f" states {row['crc32c']}")


def test_a_swapped_label_in_a_shard_is_named(tiny_dataset: str, copied: Callable[[str], Path]) -> None:
    dataset = copied(tiny_dataset)
    row = arrow_rows(dataset / "val/00000.arrow")[3]

    def swap(columns: dict[str, list[Any]]) -> None:
        columns["label"][3] = (row["label"] + 1) % 10

    _rewrite(dataset / "val/00000.arrow", swap)
    words = f"record 3 ({row['key']}): has label {(row['label'] + 1) % 10}, the index states {row['label']}"
    assert words in _damages(dataset)["val/00000.arrow"]


def test_class_counts_that_the_index_does_not_have_are_found(
    tiny_dataset: str, copied: Callable[[str], Path], manifest_of: Any
) -> None:
    dataset = copied(tiny_dataset)
    manifest = manifest_of(str(dataset))
    counts = manifest["splits"]["train"]["class_counts"]
    manifest["splits"]["train"]["class_counts"] = [counts[0] - 1, *counts[1:]]
    _sealed_again(dataset, splits=manifest["splits"])
    wnid = manifest["classes"][0]["wnid"]
    assert _damages(dataset) == {"index/train.arrow": f"has 6 samples of {wnid}, the manifest states 5"}


def test_sums_that_are_not_those_of_the_stored_pixels_are_found(
    tiny_raw_dataset: str, copied: Callable[[str], Path]
) -> None:
    dataset = copied(tiny_raw_dataset)
    part = dataset / "parts/train-00001.npz"
    with np.load(part) as file:
        arrays = dict(file)
    arrays["pixels"][3, 4, 1] += 1
    np.savez(part, **arrays)
    _sealed_again(dataset)
    deep = verify(str(dataset), VerifySettings(deep=True))["damages"]
    assert {(d["path"], d["problem"]) for d in deep} == {
        ("parts/train-00001.npz", "is not the sum of the stored pixels of train/00001.arrow"),
        ("statistics/sums.npz", "is not the total of the sums beside the training shards"),
    }


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
    assert (last.done, last.total, last.unit) == (facts["num_files"] - 1, facts["num_files"] - 1, "files")


def test_a_stop_ends_it(tiny_dataset: str, tmp_path: Path) -> None:
    writer = RunWriter.begin(Place(tmp_path), "verify", {})
    writer.request_stop()
    with pytest.raises(Interrupted, match="Stopped before all files were looked at"):
        verify(tiny_dataset, VerifySettings(), writer)


def test_a_dataset_in_an_object_store_is_verified_there(
    tiny_dataset: str, monkeypatch: pytest.MonkeyPatch, copied: Callable[[str], Path]
) -> None:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        for name, value in {
            "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ALLOW_HTTP": "true",
        }.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        urllib.request.urlopen(urllib.request.Request(f"http://{host}:{port}/verified", method="PUT")).close()
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
        found = _damages(place.uri)
        assert found["parts/val-00001.json"] == "is gone"
        assert f"record 1 ({row['key']}): its payload" in found["val/00000.arrow"]
    finally:
        server.stop()


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
