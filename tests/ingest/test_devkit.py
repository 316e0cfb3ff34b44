"""The development kit: the real one gives the published classes and labels, a bad one is refused by name."""

import csv
import hashlib
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
META_MD5, TRUTH_MD5 = "10a0b0bee2f33e1beb1e53c346736c54", "1cfce2418d86c664c2e10863eecd0aa3"
FIRST_VAL_IDS, LAST_VAL_IDS = [490, 361, 171, 822, 297, 482, 13, 704, 599, 164], [10, 495, 128, 848, 186]
FIRST_VAL_RANKS, LAST_VAL_RANKS = [65, 970, 230, 809, 516, 57, 334, 415, 674, 332], [283, 26, 232, 982, 355]
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


@pytest.fixture(scope="module")
def real_ilsvrc_plan(real: Source) -> Plan:
    return make_plan(real, IngestSettings(label_order="ilsvrc"), "0" * 64)


def _lines_sha256(values: list[str]) -> str:
    return hashlib.sha256("".join(f"{value}\n" for value in values).encode()).hexdigest()


def test_the_real_kit_has_the_thousand_published_classes(real: Source, shared_data: Path) -> None:
    classes = real.synsets()
    assert _lines_sha256([s.wnid for s in classes]) == SORTED_WNIDS_SHA256
    wanted = {row["wnid"]: Synset(row["wnid"], row["words"], int(row["ilsvrc_id"])) for row in _table(shared_data)}
    assert {s.wnid: s for s in classes} == wanted
    assert ilsvrc2012_synsets() == wanted


def test_the_files_of_the_kit_are_those_that_were_published(shared_data: Path) -> None:
    files = ((META_MD5, "meta.mat"), (TRUTH_MD5, "ILSVRC2012_validation_ground_truth.txt"))
    for md5, name in files:
        data = (shared_data / "metadata" / name).read_bytes()
        assert hashlib.md5(data, usedforsecurity=False).hexdigest() == md5


def test_labels_are_the_published_ones_in_both_orders(real_plan: Plan, real_ilsvrc_plan: Plan) -> None:
    assert real_plan.wnids == sorted(real_plan.wnids)
    assert [real_plan.wnids.index(wnid) for wnid, _, _ in KNOWN] == [rank for _, _, rank in KNOWN]
    assert [real_ilsvrc_plan.wnids.index(wnid) for wnid, _, _ in KNOWN] == [number - 1 for _, number, _ in KNOWN]
    assert sorted(real_ilsvrc_plan.wnids) == real_plan.wnids
    assert not any(a == b for a, b in zip(real_plan.wnids, real_ilsvrc_plan.wnids, strict=True))


def test_the_real_validation_labels_are_the_published_ones(real_plan: Plan) -> None:
    labels = _val_labels(real_plan)
    assert labels[:10] == FIRST_VAL_RANKS
    assert labels[-5:] == LAST_VAL_RANKS
    assert _lines_sha256([str(label) for label in labels]) == VAL_LABELS_SHA256
    assert (real_plan.wnids[labels[292]], real_plan.wnids[labels[49_999]]) == ("n01440764", "n02437616")


def test_the_real_validation_labels_in_the_order_of_the_kit_are_its_lines(
    real_ilsvrc_plan: Plan, shared_data: Path
) -> None:
    ids = [label + 1 for label in _val_labels(real_ilsvrc_plan)]
    assert ids[:10] == FIRST_VAL_IDS
    assert ids[-5:] == LAST_VAL_IDS
    lines = (shared_data / "metadata/ILSVRC2012_validation_ground_truth.txt").read_text().split()
    assert ids == [int(line) for line in lines]


def _val_labels(plan: Plan) -> list[int]:
    """The labels of the validation pictures by their number from 1, each there once."""
    table = plan.entries["val"]
    keys, labels = table.column("key").to_pylist(), table.column("label").to_pylist()
    found = {int(key[-8:]): label for key, label in zip(keys, labels, strict=True)}
    assert sorted(found) == list(range(1, 50_001))
    assert all(key == f"{plan.wnids[found[int(key[-8:])]]}/ILSVRC2012_val_{key[-8:]}" for key in keys)
    return [found[number] for number in range(1, 50_001)]


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
