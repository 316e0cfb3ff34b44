"""Layouts: one set of pictures has one plan however it is stored, and what is no known layout is refused by name."""

from pathlib import Path

import pytest

from ingest.errors import RefusedError
from ingest.plan import Plan, make_plan
from ingest.settings import IngestSettings
from ingest.sources import detect
from tests.conftest import TinySource
from tests.ingest import archives

WNID = "n01440764"
PICTURES = {WNID: [(f"{WNID}_1.JPEG", b"1"), (f"{WNID}_2.JPEG", b"22")]}
FOLDERS = {"train/n1/a.JPEG": b"a", "train/n2/b.JPEG": b"b", "val/n1/c.JPEG": b"c", "val/n2/d.JPEG": b"d"}
TRAIN_TAR = {archives.TRAIN: archives.train_tar(PICTURES)}
VAL_TAR = {archives.VAL: archives.tar_bytes([("ILSVRC2012_val_00000001.JPEG", b"1")])}


def _write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def _plan(folder: Path) -> Plan:
    return make_plan(detect(str(folder)), IngestSettings(), "0" * 64)


def _rows(plan: Plan, split: str) -> list[tuple[str, int]]:
    table = plan.entries[split]
    return list(zip(table.column("key").to_pylist(), table.column("label").to_pylist(), strict=True))


def test_archives_and_class_folders_of_the_same_pictures_have_one_plan(tiny_source: TinySource) -> None:
    official, folders = _plan(tiny_source.official), _plan(tiny_source.folders)
    assert official.record == folders.record
    assert all(_rows(official, split) == _rows(folders, split) for split in ("train", "val"))


def test_bare_class_folders_are_the_training_split(tiny_source: TinySource) -> None:
    bare, both = _plan(tiny_source.folders / "train"), _plan(tiny_source.folders)
    assert list(bare.entries) == ["train"]
    assert _rows(bare, "train") == _rows(both, "train")


def test_class_folders_yield_every_file_but_hidden_ones(tmp_path: Path) -> None:
    extra = {"train/n1/deep/er/e.png": b"e", "train/n1/f": b"f", "train/n1/.hidden": b"", "train/.git/x": b""}
    source = detect(str(_write(tmp_path, {**FOLDERS, **extra})))
    found = {entry.key: (entry.archive, entry.length) for entry in source.entries("train")}
    assert found == {
        "n1/a": ("train/n1/a.JPEG", 1), "n1/e": ("train/n1/deep/er/e.png", 1), "n1/f": ("train/n1/f", 1),
        "n2/b": ("train/n2/b.JPEG", 1),
    }  # fmt: skip


def test_test_pictures_in_a_folder_have_no_label(tmp_path: Path) -> None:
    plan = _plan(_write(tmp_path, {**FOLDERS, "test/x.JPEG": b"x", "test/.DS_Store": b""}))
    assert _rows(plan, "test") == [("x", -1)]


def test_labels_follow_the_sorted_class_names(tmp_path: Path) -> None:
    plan = _plan(_write(tmp_path, {"zebra/1.JPEG": b"1", "ant/2.JPEG": b"2", "n02119789/3.JPEG": b"3"}))
    assert plan.wnids == ["ant", "n02119789", "zebra"]
    assert sorted(_rows(plan, "train")) == [("ant/2", 0), ("n02119789/3", 1), ("zebra/1", 2)]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, r"expected one of: .*\(ILSVRC-2012 archives\); .*\(class folders\); found nothing"),
        ({"a.JPEG": b"", "b.tar": b""}, "no known layout; .*; found a.JPEG, b.tar"),
        ({archives.DEVKIT: b""}, f"no known layout; .*; found {archives.DEVKIT}"),
        (TRAIN_TAR | VAL_TAR, "found ILSVRC2012_img_val.tar but not ILSVRC2012_devkit_t12.tar.gz"),
        (
            TRAIN_TAR | FOLDERS,
            r"found ILSVRC-2012 archives \(ILSVRC2012_img_train.tar\) and class folders \(train/\) side by side",
        ),
        (FOLDERS | {"n3/e.JPEG": b""}, "found train, val and also the folder 'n3'"),
        (FOLDERS | {"val/n3/e.JPEG": b""}, "val: class folder 'n3' has no counterpart in train"),
        ({"train/a.JPEG": b"", "val/n1/b.JPEG": b""}, "train: holds no class folders"),
        ({"val/n1/a.JPEG": b""}, "found val without train"),
        ({archives.TEST: archives.tar_bytes([])}, "found test without train"),
    ],
    ids=[
        "nothing",
        "loose files",
        "only a kit",
        "no kit",
        "both layouts",
        "another folder",
        "another class in val",
        "no class folders",
        "only val",
        "only test",
    ],
)
def test_what_is_no_known_layout_is_refused_with_what_was_found(
    files: dict[str, bytes], words: str, tmp_path: Path
) -> None:
    with pytest.raises(RefusedError, match=words) as refused:
        detect(str(_write(tmp_path, files)))
    assert refused.value.exit_code == 3
    assert str(tmp_path) in refused.value.message


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (
            {"train/n1/.keep": b"", **FOLDERS, "train/n3/.keep": b""},
            "1 of 3 classes have no training picture, first n3",
        ),
        (FOLDERS | {"train/n1/a.png": b""}, "n1/a twice: in train/n1/a.JPEG .* and in train/n1/a.png"),
        (FOLDERS | {"val/n2/x/d.JPEG": b""}, "split val holds n2/d twice"),
        ({archives.TRAIN: archives.train_tar({WNID: PICTURES[WNID] * 2})}, f"holds {WNID}/{WNID}_1 twice"),
        ({archives.TRAIN: archives.train_tar({WNID: [], "n1": PICTURES[WNID]})}, f"first {WNID}"),
        ({archives.TRAIN: archives.train_tar({})}, "split train holds no pictures"),
    ],
    ids=["an empty class", "two endings", "two folders", "two members", "an empty class tar", "an empty archive"],
)
def test_what_cannot_be_planned_is_refused_with_what_was_found(
    files: dict[str, bytes], words: str, tmp_path: Path
) -> None:
    with pytest.raises(RefusedError, match=words):
        _plan(_write(tmp_path, files))


def test_a_source_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "missing", _write(tmp_path, {"file.tar": b""}) / "file.tar"):
        with pytest.raises(RefusedError, match="no such folder; expected one of: ILSVRC2012_img_train"):
            detect(str(path))
