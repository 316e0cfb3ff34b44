"""ILSVRC-2010: three archives, a patch that goes before them, a kit, and labels of the test pictures beside it."""

import csv
from pathlib import Path

import pytest

from ingest.errors import RefusedError
from ingest.plan import make_plan
from ingest.settings import IngestSettings
from ingest.sources import Source, detect
from ingest.synsets import Synset
from tests.ingest import archives

TRAIN, VAL, TEST = (f"ILSVRC2010_images_{split}.tar" for split in ("train", "val", "test"))
PATCH, DEVKIT = "patch_images.tar", "ILSVRC2010_devkit-1.0.tar.gz"
META = "devkit-1.0/data/meta.mat"
VAL_TRUTH, TEST_TRUTH = "ILSVRC2010_validation_ground_truth.txt", "ILSVRC2010_test_ground_truth.txt"
# ILSVRC2010_ID 1, 2, 3: not the order of the wnids.
LEAVES = [("n07711569", "mashed potato"), ("n01484850", "great white shark"), ("n02119789", "kit fox")]
MASHED, SHARK, FOX = (wnid for wnid, _ in LEAVES)


def _kit(truth: bytes = b"2\n3\n1\n", leaves: list[tuple[str, str]] = LEAVES) -> bytes:
    table = archives.class_table(2010, leaves, ("n00000001",))
    members = [("devkit-1.0/readme.txt", b"read me"), (META, table), (f"devkit-1.0/data/{VAL_TRUTH}", truth)]
    return archives.tar_bytes(members, "w:gz")


FILES = {
    TRAIN: archives.train_tar({wnid: [(f"{wnid}_{n}.JPEG", f"{wnid} {n}".encode()) for n in (7, 12)] for wnid, _ in LEAVES}),
    VAL: archives.tar_bytes([(f"val/ILSVRC2010_val_{n:08d}.JPEG", b"val %d" % n) for n in (3, 1, 2)]),
    TEST: archives.tar_bytes([(f"test/ILSVRC2010_test_{n:08d}.JPEG", b"test %d" % n) for n in (2, 1)]),
    PATCH: archives.tar_bytes([
        (f"patch_images/train/{FOX}_12.JPEG", b"better fox"),
        ("patch_images/val/ILSVRC2010_val_00000002.JPEG", b"better val 2"),
        ("patch_images/test/ILSVRC2010_test_00000001.JPEG", b"better test 1"),
    ]),
    TEST_TRUTH: b"3\n2\n",
    DEVKIT: _kit(),
}  # fmt: skip


def _source(folder: Path, *without: str, **changed: bytes) -> Source:
    for name, data in {**FILES, **changed}.items():
        if name not in without:
            (folder / name).write_bytes(data)
    return detect(str(folder))


def _pictures(source: Source, split: str) -> dict[str, bytes]:
    entries = list(source.entries(split))
    assert all(e.key == (f"{e.wnid}/{e.key.rpartition('/')[2]}" if e.wnid else e.key) for e in entries)
    return dict(zip((e.key for e in entries), source.read(source.place, entries), strict=True))


def test_every_split_has_its_pictures_and_the_patch_goes_before_them(tmp_path: Path) -> None:
    source = _source(tmp_path)
    assert source.splits() == ("train", "val", "test")
    assert source.notes == ()
    assert _pictures(source, "train") == {
        f"{SHARK}/{SHARK}_7": b"n01484850 7", f"{SHARK}/{SHARK}_12": b"n01484850 12",
        f"{FOX}/{FOX}_7": b"n02119789 7", f"{FOX}/{FOX}_12": b"better fox",
        f"{MASHED}/{MASHED}_7": b"n07711569 7", f"{MASHED}/{MASHED}_12": b"n07711569 12",
    }  # fmt: skip
    assert _pictures(source, "val") == {
        f"{SHARK}/ILSVRC2010_val_00000001": b"val 1", f"{FOX}/ILSVRC2010_val_00000002": b"better val 2",
        f"{MASHED}/ILSVRC2010_val_00000003": b"val 3",
    }  # fmt: skip
    assert _pictures(source, "test") == {
        f"{FOX}/ILSVRC2010_test_00000001": b"better test 1", f"{SHARK}/ILSVRC2010_test_00000002": b"test 2"
    }  # fmt: skip


def test_a_missing_patch_is_said_and_the_first_pictures_are_taken(tmp_path: Path) -> None:
    source = _source(tmp_path, PATCH)
    assert [note.partition(":")[0] for note in source.notes] == [f"{PATCH} is not there"]
    assert _pictures(source, "train")[f"{FOX}/{FOX}_12"] == b"n02119789 12"


def test_a_patch_that_replaces_nothing_is_refused(tmp_path: Path) -> None:
    other = archives.tar_bytes([(f"patch_images/train/{FOX}_{n}.JPEG", b"other") for n in (98, 99)])
    words = rf"{PATCH}: holds 2 pictures, and none by the name of one in {TRAIN}, {VAL}, {TEST}.*take it away"
    with pytest.raises(RefusedError, match=words):
        make_plan(_source(tmp_path, **{PATCH: other}), IngestSettings(), "0" * 64)


@pytest.mark.parametrize("name", [f"{FOX}_12", "ILSVRC2010_val_00000002", "ILSVRC2010_test_00000001"])
def test_a_patch_that_replaces_one_picture_of_one_split_is_taken(name: str, tmp_path: Path) -> None:
    one = archives.tar_bytes([("other.JPEG", b"-"), (f"{name}.JPEG", b"a better picture")])
    plan = make_plan(_source(tmp_path, **{PATCH: one}), IngestSettings(), "0" * 64)
    lengths = [n for table in plan.entries.values() for n in table.column("length").to_pylist()]
    assert lengths.count(len(b"a better picture")) == 1


def test_test_pictures_without_ground_truth_have_no_labels_and_it_is_said(tmp_path: Path) -> None:
    source = _source(tmp_path, TEST_TRUTH)
    assert source.notes == (f"{TEST_TRUTH} is not there: the test pictures have no labels",)
    assert _pictures(source, "test") == {
        "ILSVRC2010_test_00000001": b"better test 1",
        "ILSVRC2010_test_00000002": b"test 2",
    }
    plan = make_plan(source, IngestSettings(), "0" * 64)
    assert plan.entries["test"].column("label").to_pylist() == [-1, -1]


@pytest.mark.parametrize(("order", "wnids"), [("wnid", [SHARK, FOX, MASHED]), ("ilsvrc", [MASHED, SHARK, FOX])])
def test_labels_follow_either_order(order: str, wnids: list[str], tmp_path: Path) -> None:
    plan = make_plan(_source(tmp_path), IngestSettings.model_validate({"label_order": order}), "0" * 64)
    assert plan.wnids == wnids
    for table in plan.entries.values():
        for key, label in zip(table.column("key").to_pylist(), table.column("label").to_pylist(), strict=True):
            assert wnids[label] == key.partition("/")[0]


def test_training_pictures_alone_take_the_words_of_wordnet_and_no_number_of_another_year(tmp_path: Path) -> None:
    source = _source(tmp_path, VAL, TEST, DEVKIT, TEST_TRUTH)
    assert source.synsets()[1] == Synset(FOX, "kit fox, Vulpes macrotis")
    assert len(_pictures(source, "train")) == 6


def test_the_classes_are_numbered_as_in_the_published_kit(shared_data: Path, tmp_path: Path) -> None:
    text = (shared_data / "metadata/ilsvrc2010_words.tsv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE))
    # 54 of the words name more than one wnid; those get one that none has.
    leaves = [(row["wnid"] or f"n99{int(row['position']):06d}", row["words"]) for row in rows]
    val = archives.tar_bytes([(f"ILSVRC2010_val_{n:08d}.JPEG", b"") for n in range(1, 5)])
    source = _source(tmp_path, **{VAL: val, DEVKIT: _kit(b"78\n854\n435\n541\n", leaves)})
    by_id = {s.ilsvrc_id: s.wnid for s in source.synsets()}
    assert [by_id[n] for n in (1, 2, 3, 1000)] == ["n07711080", "n07711569", "n07767549", "n04554684"]
    assert [e.wnid for e in source.entries("val")] == ["n09428293", "n02871525", "n02119789", "n04141975"]


@pytest.mark.parametrize(
    ("without", "changed", "words"),
    [
        ([DEVKIT], {}, f"found {VAL} but not {DEVKIT}.*put the development kit beside the archives"),
        ([DEVKIT, VAL], {}, f"found {TEST_TRUTH} but not {DEVKIT}"),
        ([TRAIN], {}, r"found val, test without train \(ILSVRC-2010 archives\)"),
        (
            [],
            {archives.TRAIN: archives.train_tar({})},
            rf"found ILSVRC-2012 archives \({archives.TRAIN}\) and ILSVRC-2010 archives \({TEST}\) side by side",
        ),
        ([], {TEST_TRUTH: b"3\n"}, f"ILSVRC2010_test_00000002.JPEG' has no line in {TEST_TRUTH}, which has 1"),
        ([], {TEST_TRUTH: b"3\n2\n1\n"}, f"{TEST}: 2 pictures, but {TEST_TRUTH} has 3 lines"),
        ([], {TEST_TRUTH: b"3\n4\n"}, f"{TEST_TRUTH} names class 4, which data/meta.mat does not have"),
        ([], {DEVKIT: _kit(b"2\n3\n")}, "ILSVRC2010_val_00000003.JPEG' has no line"),
        ([], {DEVKIT: _kit(leaves=LEAVES[1:])}, rf"{MASHED}\.tar', but class {MASHED} is not in {DEVKIT}"),
        (
            [],
            {DEVKIT: archives.devkit(archives.class_table(2010, LEAVES), b"")},
            f"{DEVKIT}: holds no data/{VAL_TRUTH}",
        ),
        (
            [],
            {PATCH: archives.tar_bytes([("a/x_1.JPEG", b"1"), ("b/x_1.JPEG", b"2")])},
            f"{PATCH}: holds x_1 twice, as 'a/x_1.JPEG' and as 'b/x_1.JPEG'",
        ),
    ],
    ids=[
        "no kit",
        "test labels without a kit",
        "no train",
        "two challenges",
        "few test labels",
        "many test labels",
        "an inner class",
        "few labels",
        "a class of another kit",
        "the kit of 2012",
        "two patches",
    ],
)
def test_what_is_not_as_published_is_refused_by_name(
    without: list[str], changed: dict[str, bytes], words: str, tmp_path: Path
) -> None:
    with pytest.raises(RefusedError, match=words) as refused:
        make_plan(_source(tmp_path, *without, **changed), IngestSettings(), "0" * 64)
    assert str(tmp_path) in refused.value.message
