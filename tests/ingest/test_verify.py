"""Verification: passes what is whole, and finds and names whatever was changed, even with its hashes restated."""

import hashlib
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ingest.errors import DamageError, RefusedError, TenchError
from ingest.settings import VerifySettings
from ingest.verify import refuse_damage, verify

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


def _sealed_again(dataset: Path, **changed: str) -> None:
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
    refuse_damage(facts)


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
    assert _damages(dataset) == {path: _damages(dataset)[path]}
    assert "same size, other bytes" in _damages(dataset)[path]
    file.write_bytes(good[:-1])
    assert _damages(dataset) == {path: f"has {len(good) - 1} bytes; {len(good)} were sealed"}
    file.unlink()
    assert _damages(dataset) == {path: "is gone"}
    facts = verify(str(dataset), VerifySettings())
    with pytest.raises(DamageError, match=f"1 damages; first {path}: is gone"):
        refuse_damage(facts)


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

    _rewrite(dataset / "index/train.arrow", swap)
    _sealed_again(dataset)
    assert "first difference at" in _damages(dataset)["index/train.arrow"]
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
    assert _damages(dataset) == {"index/val.arrow": "leads to other samples of val/00000.arrow than were written"}


@pytest.mark.parametrize("column", ["offset", "length", "crc32c", "key"])
def test_an_index_that_leads_elsewhere_is_found_though_every_hash_is_restated(
    column: str, tiny_tfrecord_dataset: str, copied: Callable[[str], Path]
) -> None:
    dataset = copied(tiny_tfrecord_dataset)

    def spoil(columns: dict[str, list[Any]]) -> None:
        columns[column][3] = columns[column][4]

    _rewrite(dataset / "index/val.arrow", spoil)
    _sealed_again(dataset)
    assert set(_damages(dataset)) == {"index/val.arrow" if column == "key" else "val/00000.tfrecord"}


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
            assert list(_damages(dataset)) == [found], (found, bit)
        except TenchError as error:
            assert found in error.message, (found, bit)  # noqa: PT017
        _flip(path, bit)
    assert _damages(dataset) == {}
