"""WebDataset: the keys, labels and bytes of class folders, classes found by rule, every picture with its label."""

import io
import re
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.errors import RefusedError
from ingest.plan import Plan, make_plan
from ingest.settings import IngestSettings
from ingest.sources import Source, detect
from ingest.storage import Place
from tests.conftest import TinySource
from tests.ingest.archives import tar_bytes
from tests.ingest.test_object_store import _upload as upload
from tests.ingest.test_object_store import place as place
from tests.ingest.test_object_store import store as store

TENCH, GOLDFISH = "n01440764", "n01443537"
Members = list[tuple[str, bytes]]


def sample(key: str, label: int | str, picture: bytes | None = None, ending: str = "jpg") -> Members:
    """A picture, its label and something else, in the order in which names sort."""
    data = key.encode() if picture is None else picture
    return [(f"{key}.cls", f"{label}".encode()), (f"{key}.{ending}", data), (f"{key}.json", b"{}")]


def write(folder: Path, tars: Mapping[str, Sequence[Members]]) -> Path:
    for name, samples in tars.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(tar_bytes(member for members in samples for member in members))
    return folder


def webdataset_copy(folders: Path, out: Path, names: dict[str, str]) -> Path:
    """The pictures of class folders, 25 a tar; a training key begins with the class, one of validation does not."""
    classes = sorted(p.name for p in (folders / "train").iterdir())
    for split, pattern in names.items():
        files = sorted((folders / split).rglob("*.JPEG"))
        samples = [sample(f.stem, classes.index(f.parent.name), f.read_bytes(), "JPEG") for f in files]
        write(out, {pattern.format(n // 25): samples[n : n + 25] for n in range(0, len(samples), 25)})
    return out


def contents(source: Source, split: str) -> dict[str, tuple[str, bytes]]:
    """Class and bytes by key."""
    entries = list(source.entries(split))
    assert len({entry.key for entry in entries}) == len(entries)
    data = list(source.read(source.place, entries))
    return {entry.key: (entry.wnid, file) for entry, file in zip(entries, data, strict=True)}


def plan_of(folder: Path) -> Plan:
    return make_plan(detect(str(folder)), IngestSettings(), "0" * 64)


def classes_of(source: Source) -> list[str]:
    return [synset.wnid for synset in source.synsets()]


@pytest.mark.parametrize(
    "names",
    [
        {"train": "train/{:06d}.tar", "val": "validation/{:06d}.tar"},
        {"train": "train/{:06d}.tar", "val": "val/imagenet-train-{:06d}.tar"},
        {"train": "imagenet1k-train-{:04d}.tar", "val": "imagenet1k-validation-{:02d}.tar"},
        {"train": "part-{:04d}.tar", "val": "part_val_{:02d}.tar"},
    ],
    ids=["folders", "folders first", "names", "no name is train"],
)
def test_webdataset_and_class_folders_of_the_same_pictures_have_one_plan(
    names: dict[str, str], tiny_source: TinySource, tmp_path: Path
) -> None:
    webdataset = detect(str(webdataset_copy(tiny_source.folders, tmp_path, names)))
    folders = detect(str(tiny_source.folders))
    assert webdataset.layout == "WebDataset"
    assert webdataset.synsets() == folders.synsets()
    for split in ("train", "val"):
        assert contents(webdataset, split) == contents(folders, split)
    assert plan_of(tmp_path).record == plan_of(tiny_source.folders).record


def test_webdataset_in_an_object_store_is_read_in_place(place: Place, tiny_source: TinySource, tmp_path: Path) -> None:
    names = {"train": "train-{:02d}.tar", "val": "val-{:02d}.tar"}
    local = detect(str(webdataset_copy(tiny_source.folders, tmp_path, names)))
    remote = detect(upload(place, tmp_path).uri)
    for split in ("train", "val"):
        assert contents(remote, split) == contents(local, split)


@pytest.mark.parametrize("format_", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_and_extended_headers_change_nothing(format_: int, tmp_path: Path) -> None:
    key = "x" * 60 + "/" + "y" * 90
    with tarfile.open(tmp_path / "train-0.tar", "w", format=format_) as archive:
        for name, data in [*sample("a", 0), *sample(key, 1), *sample("b", 1)]:
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(data), 1.5  # a fraction of a second needs an extended header in PAX
            archive.addfile(member, io.BytesIO(data))
    assert contents(detect(str(tmp_path)), "train") == {
        "0000/a": ("0000", b"a"), "0001/" + "y" * 90: ("0001", key.encode()), "0001/b": ("0001", b"b")
    }  # fmt: skip


@pytest.mark.parametrize("keys", [f"{TENCH}_1 {GOLDFISH}_2", f"{TENCH}/a {GOLDFISH}/b", f"./{TENCH}_1 ./{GOLDFISH}_2"])
def test_wnids_that_all_training_keys_begin_with_are_the_classes(keys: str, tmp_path: Path) -> None:
    first, second = keys.split()
    tars = {"train-0.tar": [sample(first, 7), sample(second, 3)], "val-0.tar": [sample("v", 3)]}
    (tmp_path / "classes.txt").write_text("not\nlooked\nat\n")
    source = detect(str(write(tmp_path, tars)))
    assert classes_of(source) == [TENCH, GOLDFISH]
    assert [entry.wnid for entry in source.entries("train")] == [TENCH, GOLDFISH]
    assert [(entry.key, entry.wnid) for entry in source.entries("val")] == [(f"{GOLDFISH}/v", GOLDFISH)]


@pytest.mark.parametrize("where", ["classes.txt", "train/classes.txt"])
def test_without_wnids_the_lines_of_classes_txt_are_the_classes(where: str, tmp_path: Path) -> None:
    write(tmp_path, {"train/0.tar": [sample(f"{TENCH}_1", 1), sample("b.c", 0, ending="PNG")]})
    (tmp_path / where).write_text("zebra\n ant\n\n")
    source = detect(str(tmp_path))
    assert classes_of(source) == ["ant", "zebra"]
    assert contents(source, "train") == {f"ant/{TENCH}_1": ("ant", b"n01440764_1"), "zebra/b.c": ("zebra", b"b.c")}


@given(labels=st.sets(st.integers(0, 30_000), min_size=1, max_size=12))
def test_without_any_names_label_order_is_the_order_of_the_numbers(
    labels: set[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("numbers")
    write(folder, {"0.tar": [sample(f"k{label}", f" {label}\n") for label in labels]})
    plan = plan_of(folder)
    assert [int(wnid) for wnid in plan.wnids] == sorted(labels)
    assert all(len(wnid) >= 4 for wnid in plan.wnids)


def test_test_pictures_need_no_label(tmp_path: Path) -> None:
    tars = {
        "a-train-0.tar": [sample("a", 0)],
        "a-test-0.tar": [[("d/t1.jpg", b"1")]],
        "a-test-1.tar": [sample("t2", -1)],
    }
    source = detect(str(write(tmp_path, tars)))
    assert source.splits() == ("train", "test")
    assert contents(source, "test") == {"t1": ("", b"1"), "t2": ("", b"t2")}


def test_archives_without_labels_are_no_webdataset(tmp_path: Path) -> None:
    write(tmp_path, {"backup.tar": [[("a.jpg", b"")] * 3], "cut.tar": [sample("a", 0)]})
    (tmp_path / "cut.tar").write_bytes((tmp_path / "cut.tar").read_bytes()[:100])
    with pytest.raises(RefusedError, match=r"no known layout; .* \(WebDataset\); .*; found backup.tar, cut.tar"):
        detect(str(tmp_path))


@pytest.mark.parametrize("name", [f"{TENCH}.tar", "fall11_whole.tar", "ILSVRC2012_img_train.tar"])
def test_archives_with_official_names_are_no_webdataset(name: str, tmp_path: Path) -> None:
    assert detect(str(write(tmp_path, {name: [sample("a", 0)]}))).layout != "WebDataset"


A, PICTURE_ONLY = sample("a", 0), [("b.jpg", b"")]


@pytest.mark.parametrize(
    ("tars", "words"),
    [
        ({"t.tar": [A, PICTURE_ONLY]}, r"t.tar: the picture b has no b.cls in this tar"),
        ({"t.tar": [A], "val.tar": [PICTURE_ONLY]}, r"val.tar: the picture b has no b.cls"),
        ({"t.tar": [A, [("c.cls", b"1"), ("c.webp", b"")]]}, r"t.tar: c.cls has no picture .* c.jpg, c.jpeg, c.png"),
        ({"t.tar": [sample("a", "cat")]}, r"t.tar: a.cls holds b'cat'; expected the label as a decimal number"),
        ({"t.tar": [sample("a", -1)]}, r"a.cls holds b'-1'"),
        ({"t.tar": [sample("a", "")]}, r"a.cls holds b''"),
        ({"t.tar": [A], "val.tar": [sample("b", 1)]}, r"b.cls says 1, a class that is not among the training"),
        (
            {"t.tar": [sample(f"{TENCH}_1", 0)], "u.tar": [sample(f"{GOLDFISH}_2", 0)]},
            rf"u.tar: {GOLDFISH}_2 has label 0, but {TENCH}_1 in t.tar has label 0; expected one label for each wnid",
        ),
        (
            {"t.tar": [sample(f"{TENCH}_1", 0), sample(f"{TENCH}_2", 1)]},
            rf"t.tar: {TENCH}_2 has label 1, but {TENCH}_1 in t.tar has label 0",
        ),
        ({"t.tar": [A], "train/u.tar": [A]}, "found t.tar at the top and also train/u.tar"),
        ({"my-train-val.tar": [A]}, r"my-train-val.tar: its name speaks of train and val"),
        ({"val.tar": [A]}, "found val without train"),
    ],
)  # fmt: skip
def test_what_is_mixed_or_not_whole_is_refused(tars: dict[str, Sequence[Members]], words: str, tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match=words) as refused:
        plan_of(write(tmp_path, tars))
    assert str(tmp_path) in refused.value.message


def test_a_tar_that_is_cut_is_refused_by_name(tmp_path: Path) -> None:
    whole = tar_bytes(member for n in range(30) for member in sample(f"k{n}", n))
    (tmp_path / "train-0.tar").write_bytes(whole[: len(whole) // 2])
    source = detect(str(tmp_path))
    with pytest.raises(RefusedError, match=r"train-0.tar: not a whole tar archive"):
        list(source.entries("train"))


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        (b"ant\n", "says 1, a class that is not in classes.txt"),
        (b"ant\nbee/wasp\n", "classes.txt: class 1 is named 'bee/wasp'"),
        (b"ant\n\nbee\n", "classes.txt: class 1 is named ''"),
        (b"ant\nant\n", "classes.txt: classes 0 and 1 are both named 'ant'"),
        (b"\xff\n", "classes.txt: is no UTF-8 text"),
    ],
)
def test_a_list_of_classes_that_does_not_fit_is_refused(classes: bytes, words: str, tmp_path: Path) -> None:
    write(tmp_path, {"train-0.tar": [sample("a", 0), sample("b", 1)]})
    (tmp_path / "classes.txt").write_bytes(classes)
    with pytest.raises(RefusedError, match=re.escape(words)):
        list(detect(str(tmp_path)).entries("train"))


def test_tars_beside_class_folders_of_another_split_are_refused(tmp_path: Path) -> None:
    write(tmp_path, {"train/0.tar": [A]})
    (tmp_path / "val/n1").mkdir(parents=True)
    with pytest.raises(RefusedError, match=r"found WebDataset \(train\) and class folders \(val/\) side by side"):
        detect(str(tmp_path))
