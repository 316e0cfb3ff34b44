"""Damage is named as closely as it can be: the record, its key, the place; the row and column of an index."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ingest.settings import VerifySettings
from ingest.verify import verify
from tests.ingest.damaging import damages, flip, rewrite, sealed_again
from tests.ingest.shards import arrow_rows, tfrecords


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
        flip(path, bit)
        problem = f"record {number} ({row['key']}): its payload at {row['offset']} has another checksum"
        hash_problem, *others = damages(dataset)[f"train/{path.name}"].split("; ")
        assert (hash_problem[:10], others) == ("same size,", [problem])
        flip(path, bit)


@pytest.mark.parametrize("index_too", [False, True], ids=["", "index damaged too"])
def test_payloads_are_told_apart_as_long_as_one_copy_of_the_index_rows_is_whole(
    index_too: bool, tiny_dataset: str, copied: Callable[[str], Path]
) -> None:
    dataset = copied(tiny_dataset)
    rows = arrow_rows(dataset / "index/val.arrow")
    flip(dataset / "val/00000.arrow", rows[5]["offset"] * 8)
    other = dataset / ("index/val.arrow" if index_too else "parts/val-00000.arrow")
    other.write_bytes(other.read_bytes()[:-100])
    found = damages(dataset)
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
        flip(path, at * 8 + 1)
        (found,) = damages(dataset).values()
        assert (found.count("record"), f"record 2 ({key}): " in found, words in found) == (1, True, True), found
        flip(path, at * 8 + 1)


def test_a_damaged_line_of_the_idx_is_named(tiny_tfrecord_dataset: str, copied: Callable[[str], Path]) -> None:
    dataset = copied(tiny_tfrecord_dataset)
    path = dataset / "train/00002.idx"
    lines = path.read_bytes().split(b"\n")
    key = [r["key"] for r in arrow_rows(dataset / "index/train.arrow") if r["shard"] == 2][4]
    path.write_bytes(b"\n".join([*lines[:4], b"1" + lines[4][1:], *lines[5:]]))
    expected = lines[4].decode()
    assert (
        f"line 4 of record 4 ({key}) is '1{expected[1:]}', expected '{expected}'" in damages(dataset)["train/00002.idx"]
    )


@pytest.mark.parametrize("name", ["tiny_dataset", "tiny_tfrecord_dataset"])
def test_a_cut_shard_names_the_first_record_that_is_lost(
    name: str, request: pytest.FixtureRequest, copied: Callable[[str], Path]
) -> None:
    dataset = copied(request.getfixturevalue(name))
    path = next(p for p in (dataset / "train").iterdir() if p.name in ("00000.arrow", "00000.tfrecord"))
    row = arrow_rows(dataset / "index/train.arrow")[9]
    path.write_bytes(path.read_bytes()[: row["offset"] + 10])
    (found,) = damages(dataset).values()
    assert f"record 9 ({row['key']}): " in found
    assert "record 8 (" not in found
    assert "is cut" in found


def test_missing_and_extra_shards_are_named(tiny_tfrecord_dataset: str, copied: Callable[[str], Path]) -> None:
    dataset = copied(tiny_tfrecord_dataset)
    shutil.copy(dataset / "val/00000.tfrecord", dataset / "val/00002.tfrecord")
    (dataset / "train/00001.tfrecord").unlink()
    assert damages(dataset) == {
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
    flip(dataset / path, at * 8)
    (found,) = damages(dataset).values()
    assert f"row 6 ({row['key']}): has crc32c {row['crc32c'] ^ 1}, " in found
    assert found.endswith(f" states {row['crc32c']}")


def test_a_swapped_label_in_a_shard_is_named(tiny_dataset: str, copied: Callable[[str], Path]) -> None:
    dataset = copied(tiny_dataset)
    row = arrow_rows(dataset / "val/00000.arrow")[3]

    def swap(columns: dict[str, list[Any]]) -> None:
        columns["label"][3] = (row["label"] + 1) % 10

    rewrite(dataset / "val/00000.arrow", swap)
    words = f"record 3 ({row['key']}): has label {(row['label'] + 1) % 10}, the index states {row['label']}"
    assert words in damages(dataset)["val/00000.arrow"]


def test_class_counts_that_the_index_does_not_have_are_found(
    tiny_dataset: str, copied: Callable[[str], Path], manifest_of: Any
) -> None:
    dataset = copied(tiny_dataset)
    manifest = manifest_of(str(dataset))
    counts = manifest["splits"]["train"]["class_counts"]
    manifest["splits"]["train"]["class_counts"] = [counts[0] - 1, *counts[1:]]
    sealed_again(dataset, splits=manifest["splits"])
    wnid = manifest["classes"][0]["wnid"]
    assert damages(dataset) == {"index/train.arrow": f"has 6 samples of {wnid}, the manifest states 5"}


def test_sums_that_are_not_those_of_the_stored_pixels_are_found(
    tiny_raw_dataset: str, copied: Callable[[str], Path]
) -> None:
    dataset = copied(tiny_raw_dataset)
    part = dataset / "parts/train-00001.npz"
    with np.load(part) as file:
        arrays = dict(file)
    arrays["pixels"][3, 4, 1] += 1
    np.savez(part, **arrays)
    sealed_again(dataset)
    deep = verify(str(dataset), VerifySettings(deep=True))["damages"]
    assert {(d["path"], d["problem"]) for d in deep} == {
        ("parts/train-00001.npz", "is not the sum of the stored pixels of train/00001.arrow"),
        ("statistics/sums.npz", "is not the total of the sums beside the training shards"),
    }
