"""The development kit: the real one gives the published classes and labels, a bad one is refused by name."""

import csv
import hashlib
from itertools import pairwise
from pathlib import Path

import pytest

from ingest.errors import RefusedError
from ingest.plan import Plan, make_plan
from ingest.settings import IngestSettings
from ingest.sources import Source, detect
from ingest.synsets import Synset, ilsvrc2012_synsets
from tests.conftest import TinySource
from tests.ingest import archives

# The check values of the published kit: sorted wnids, and validation labels in sorted order, one a line.
SORTED_WNIDS_SHA256 = "70002b0ff5de60a3a17a82dbfcff291931f96225ddf941ad2e182fc39e183d15"
VAL_LABELS_SHA256 = "098d797749a19d2c76f3243494b4d38079446eab41f3b8775212a33e4558a35f"
# wnid, ILSVRC2012_ID, place in the order of wnids
KNOWN = [
    ("n01440764", 449, 0), ("n01443537", 450, 1), ("n01751748", 490, 65), ("n02105855", 171, 230),
    ("n02119789", 1, 278), ("n02100735", 2, 212), ("n03255030", 1000, 543), ("n15075141", 889, 999),
]  # fmt: skip


@pytest.fixture(scope="module")
def real(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Source:
    """Archives of the real shape, a picture a class and 50,000 for validation, all of no bytes, with the real kit."""
    folder, metadata = tmp_path_factory.mktemp("real"), shared_data / "metadata"
    truth = (metadata / "ILSVRC2012_validation_ground_truth.txt").read_bytes()
    (folder / archives.DEVKIT).write_bytes(archives.devkit((metadata / "meta.mat").read_bytes(), truth))
    wnids = [row["wnid"] for row in _table(shared_data)]
    (folder / archives.TRAIN).write_bytes(archives.train_tar({w: [(f"{w}_1.JPEG", b"")] for w in wnids}))
    backwards = (f"ILSVRC2012_val_{number:08d}.JPEG" for number in range(50_000, 0, -1))
    (folder / archives.VAL).write_bytes(archives.tar_bytes((name, b"") for name in backwards))
    return detect(str(folder))


def _table(shared_data: Path) -> list[dict[str, str]]:
    text = (shared_data / "metadata/ilsvrc2012_synsets.tsv").read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE))


@pytest.fixture(scope="module")
def real_plan(real: Source) -> Plan:
    return make_plan(real, IngestSettings(), "0" * 64)


def _lines_sha256(values: list[str]) -> str:
    return hashlib.sha256("".join(f"{value}\n" for value in values).encode()).hexdigest()


def test_the_real_kit_has_the_thousand_published_classes(real: Source, shared_data: Path) -> None:
    classes = real.synsets()
    assert _lines_sha256([s.wnid for s in classes]) == SORTED_WNIDS_SHA256
    wanted = {row["wnid"]: Synset(row["wnid"], row["words"], int(row["ilsvrc_id"])) for row in _table(shared_data)}
    assert {s.wnid: s for s in classes} == wanted
    assert ilsvrc2012_synsets() == wanted


@pytest.mark.parametrize("order", ["wnid", "ilsvrc"])
def test_labels_are_the_published_ones_in_both_orders(order: str, real: Source) -> None:
    plan = make_plan(real, IngestSettings.model_validate({"label_order": order}), "0" * 64)
    found = {wnid: plan.wnids.index(wnid) for wnid, _, _ in KNOWN}
    assert found == {wnid: number - 1 if order == "ilsvrc" else rank for wnid, number, rank in KNOWN}
    assert [a < b for a, b in pairwise(plan.wnids)].count(False) == 0 or order == "ilsvrc"


def test_the_real_validation_labels_are_the_published_ones(real_plan: Plan) -> None:
    table = real_plan.entries["val"]
    labels = {
        int(key[-8:]): label
        for key, label in zip(table.column("key").to_pylist(), table.column("label").to_pylist(), strict=True)
    }
    assert sorted(labels) == list(range(1, 50_001))
    assert [labels[n] for n in range(1, 11)] == [65, 970, 230, 809, 516, 57, 334, 415, 674, 332]
    assert _lines_sha256([str(labels[n]) for n in sorted(labels)]) == VAL_LABELS_SHA256


@pytest.mark.parametrize(
    ("kit", "words"),
    [
        (b"", "cannot be read"),
        (b"no archive", "cannot be read"),
        ("cut", "cannot be read"),
        (archives.tar_bytes([("readme.txt", b"")], "w:gz"), "holds no data/meta.mat"),
        (archives.tar_bytes([(archives.META, b"MATLAB")], "w:gz"), "holds no data/ILSVRC2012_validation_ground_truth"),
    ],
    ids=["empty", "text", "cut", "no classes", "no ground truth"],
)
def test_a_kit_that_is_not_whole_is_refused(
    kit: bytes | str, words: str, tiny_source: TinySource, tmp_path: Path
) -> None:
    good = (tiny_source.official / archives.DEVKIT).read_bytes()
    if kit == "cut":
        kit = good[: len(good) // 2]
    assert isinstance(kit, bytes)
    with pytest.raises(RefusedError, match=rf"{archives.DEVKIT}: {words}"):
        _with_kit(tmp_path, tiny_source, kit).synsets()


def test_no_flipped_bit_in_a_kit_changes_classes_or_labels(tiny_source: TinySource, tmp_path: Path) -> None:
    good = (tiny_source.official / archives.DEVKIT).read_bytes()
    source = _with_kit(tmp_path, tiny_source, good)
    wanted = source.synsets(), list(source.entries("val"))
    refused = 0
    tail = len(good) - 150  # the ground truth lies here
    for at in (*range(0, tail, 9), *range(tail, len(good))):
        (tmp_path / archives.DEVKIT).write_bytes(good[:at] + bytes([good[at] ^ 1 << at % 8]) + good[at + 1 :])
        source = detect(str(tmp_path))
        try:
            assert (source.synsets(), list(source.entries("val"))) == wanted
        except RefusedError:
            refused += 1
    assert refused > 150


def test_a_class_table_damaged_anywhere_is_refused_or_still_read(tiny_source: TinySource, tmp_path: Path) -> None:
    meta, truth = archives.devkit_files(tiny_source.official)
    damaged = [b"", b"text", meta[:100], meta[:-1], meta[: len(meta) // 2], meta[:200] + bytes(len(meta) - 200)]
    damaged += [meta[:at] + bytes([meta[at] ^ 0xFF]) + meta[at + 1 :] for at in range(0, len(meta), 7)]
    refused = 0
    for data in damaged:
        try:
            assert len(_with_kit(tmp_path, tiny_source, archives.devkit(data, truth)).synsets()) > 0
        except RefusedError as error:
            assert "data/meta.mat has not the structure of the official one" in error.message  # noqa: PT017
            refused += 1
    assert refused > len(damaged) // 2


@pytest.mark.parametrize(
    ("truth", "words"),
    [
        (b"1\n" * 29, "30 pictures, but .* 29|has no line in .* which has 29"),
        (b"1\n" * 31, "30 pictures, but .* has 31 lines"),
        (b"1\n" * 29 + b"11\n", "names class 11, which data/meta.mat does not have"),
        (b"1\n" * 29 + b"tench\n", "names class .*tench"),
    ],
    ids=["too short", "too long", "an inner class", "a word"],
)
def test_a_ground_truth_that_does_not_fit_is_refused(
    truth: bytes, words: str, tiny_source: TinySource, tmp_path: Path
) -> None:
    meta, _ = archives.devkit_files(tiny_source.official)
    with pytest.raises(RefusedError, match=words):
        list(_with_kit(tmp_path, tiny_source, archives.devkit(meta, truth)).entries("val"))


def _with_kit(folder: Path, tiny_source: TinySource, kit: bytes) -> Source:
    """The tiny archives with another development kit."""
    for name in (archives.TRAIN, archives.VAL):
        (folder / name).write_bytes((tiny_source.official / name).read_bytes())
    (folder / archives.DEVKIT).write_bytes(kit)
    return detect(str(folder))
