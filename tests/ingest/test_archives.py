"""The official archives, read in place: the bytes and keys that Python's tarfile gives, or a refusal by name."""

import gc
import io
import os
import tarfile
from contextlib import suppress
from pathlib import Path

import pytest

from ingest.errors import RefusedError, TenchError
from ingest.sources import Source, detect
from ingest.sources.tar_index import tar_members
from ingest.storage import Place
from tests.conftest import TinySource
from tests.ingest import archives

CLASSES = {"n00000001": [("n00000001_1.JPEG", b"a" * 700), ("n00000001_20.JPEG", b"b" * 512)],
           "n00000002": [("n00000002_3.JPEG", b"c"), ("n00000002_4.JPEG", b"")]}  # fmt: skip
KEYS = [f"{wnid}/{name.removesuffix('.JPEG')}" for wnid, pictures in CLASSES.items() for name, _ in pictures]


def _pictures(source: Source, split: str) -> dict[str, bytes]:
    """Key -> bytes; a key that comes twice fails."""
    entries = list(source.entries(split))
    read = list(source.read(source.place, entries))
    pictures = dict(zip((e.key for e in entries), read, strict=True))
    assert len(pictures) == len(entries)
    return pictures


def _source(folder: Path, train: bytes) -> Source:
    (folder / archives.TRAIN).write_bytes(train)
    return detect(str(folder))


def test_training_pictures_are_those_of_the_tar_of_tars(tiny_source: TinySource) -> None:
    source = detect(str(tiny_source.official))
    assert _pictures(source, "train") == archives.training_pictures(tiny_source.official)


def test_validation_pictures_have_the_classes_of_the_ground_truth(tiny_source: TinySource) -> None:
    source = detect(str(tiny_source.official))
    assert _pictures(source, "val") == archives.validation_pictures(tiny_source.official)


def test_test_pictures_have_no_class(tmp_path: Path) -> None:
    names = ["ILSVRC2012_test_00000002.JPEG", "ILSVRC2012_test_00000001.JPEG"]
    (tmp_path / archives.TEST).write_bytes(archives.tar_bytes((name, name.encode()) for name in names))
    source = _source(tmp_path, archives.train_tar(CLASSES))
    assert source.splits() == ("train", "test")
    assert _pictures(source, "test") == {n.removesuffix(".JPEG"): n.encode() for n in names}
    assert {e.wnid for e in source.entries("test")} == {""}


def test_pictures_of_one_byte_and_of_none_are_read_as_they_are(tmp_path: Path) -> None:
    found = _pictures(_source(tmp_path, archives.train_tar(CLASSES)), "train")
    assert found == dict(zip(KEYS, (data for pictures in CLASSES.values() for _, data in pictures), strict=True))


def test_long_names_of_gnu_and_pax_archives_are_read(tmp_path: Path) -> None:
    name = "n00000001_" + "x" * 150
    for kind in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w", format=kind) as archive:
            info = tarfile.TarInfo(f"{name}.JPEG")
            info.size = 3
            archive.addfile(info, io.BytesIO(b"abc"))
        source = _source(tmp_path, archives.tar_bytes([("n00000001.tar", file.getvalue())]))
        assert _pictures(source, "train") == {f"n00000001/{name}": b"abc"}


NAMES = [
    "n1_1.JPEG",
    "d" * 60 + "/" + "n" * 60,
    "n" * 100,
    "n" * 101,
    "xy/" * 40 + "é",
    "é" * 70,
    "ü.JPEG",
    "v7/",
    "\udcff",
]


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_places_and_sizes_are_those_of_tarfile_whatever_the_header(kind: int, tmp_path: Path) -> None:
    for first in range(len(NAMES)):
        with tarfile.open(tmp_path / "a.tar", "w", format=kind, pax_headers={"comment": "all"}) as archive:
            for number, name in enumerate([*NAMES[first:], *NAMES[:first]]):
                for type_ in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE, tarfile.DIRTYPE):
                    info = tarfile.TarInfo(name)
                    info.type = type_
                    info.size = 0 if type_ == tarfile.DIRTYPE or name.endswith("/") else 511 + number
                    with suppress(ValueError):  # ustar cannot hold every name
                        archive.addfile(info, io.BytesIO(bytes(info.size)))
        with tarfile.open(tmp_path / "a.tar") as archive:
            wanted = [(m.name, m.offset_data, m.size) for m in archive if m.isreg()]
        assert len(wanted) >= 3 * 6
        assert [(m.name, m.offset, m.length) for m in tar_members(Place(tmp_path), "a.tar")] == wanted


def test_a_file_with_holes_is_refused(tmp_path: Path) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        info = tarfile.TarInfo("n00000001_1.JPEG")
        info.type = tarfile.GNUTYPE_SPARSE
        archive.addfile(info)
    source = _source(tmp_path, archives.tar_bytes([("n00000001.tar", file.getvalue())]))
    with pytest.raises(RefusedError, match=r"n00000001_1.JPEG' is .* a file with holes"):
        list(source.entries("train"))


def test_an_archive_that_is_cut_anywhere_is_refused(tmp_path: Path) -> None:
    whole = archives.train_tar(CLASSES)
    end = len(whole.rstrip(b"\0"))
    for cut in {c for block in range(0, end, 512) for c in (block - 1, block, block + 1) if 0 < c < end}:
        with pytest.raises(RefusedError, match="not a whole tar archive"):
            list(_source(tmp_path, whole[:cut]).entries("train"))
    assert [e.key for e in _source(tmp_path, whole).entries("train")] == KEYS


def test_a_class_archive_that_is_cut_is_refused(tmp_path: Path) -> None:
    pictures = archives.tar_bytes(CLASSES["n00000001"])
    for blocks in range(1, 5):
        source = _source(tmp_path, archives.tar_bytes([("n00000001.tar", pictures[: blocks * 512])]))
        with pytest.raises(RefusedError, match="not a whole tar archive"):
            list(source.entries("train"))


def test_no_damaged_header_hides_the_pictures_behind_it(tmp_path: Path) -> None:
    whole = archives.train_tar(CLASSES)
    headers = [at for at in range(0, len(whole), 512) if whole[at + 257 : at + 262] == b"ustar"]
    assert len(headers) == 6
    for at in headers:
        damaged = bytearray(whole)
        damaged[at + 5] ^= 1
        with pytest.raises(RefusedError, match="not a whole tar archive"):
            list(_source(tmp_path, bytes(damaged)).entries("train"))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("links", "is a link or a device"),
        ("traversal", "leads out of the archive"),
        ("truncated", "not a whole tar archive"),
    ],
)
def test_an_archive_that_is_not_as_published_is_refused(
    name: str, words: str, shared_data: Path, tmp_path: Path
) -> None:
    inner = archives.broken_archive(shared_data, name)
    with pytest.raises(RefusedError, match=words):
        list(_source(tmp_path, archives.tar_bytes([("n01440764.tar", inner)])).entries("train"))


@pytest.mark.parametrize("name", ["../n1_1.JPEG", "/etc/n1_1.JPEG", "a/../../n1_1.JPEG"])
def test_a_member_that_leads_out_of_the_archive_is_refused(name: str, tmp_path: Path) -> None:
    source = _source(tmp_path, archives.train_tar({"n00000001": [(name, b"")]}))
    with pytest.raises(RefusedError, match=f"member '{name}' leads out of the archive"):
        list(source.entries("train"))


def test_side_files_of_macos_are_passed_over(shared_data: Path, tmp_path: Path) -> None:
    inner = archives.broken_archive(shared_data, "hidden")
    source = _source(tmp_path, archives.tar_bytes([("./n01440764.tar", inner)]))
    assert list(_pictures(source, "train")) == ["n01440764/n01440764_1"]


def test_a_class_that_the_development_kit_does_not_know_is_refused(tiny_source: TinySource, tmp_path: Path) -> None:
    (tmp_path / archives.DEVKIT).write_bytes((tiny_source.official / archives.DEVKIT).read_bytes())
    source = _source(tmp_path, archives.train_tar(CLASSES))
    with pytest.raises(RefusedError, match=r"n00000001\.tar.*not in ILSVRC2012_devkit_t12\.tar\.gz"):
        list(source.entries("train"))


def test_a_source_that_shrinks_while_it_is_read_is_an_error_and_not_a_short_picture(tmp_path: Path) -> None:
    source = _source(tmp_path, archives.train_tar(CLASSES))
    entries = list(source.entries("train"))
    (tmp_path / archives.TRAIN).write_bytes(archives.train_tar(CLASSES)[: entries[0].offset + 100])
    with pytest.raises(
        TenchError, match=rf"100 bytes at .* where 700 were listed.*{KEYS[0]}.*changed while it was read"
    ):
        list(source.read(source.place, entries))


def test_a_picture_that_is_gone_when_it_is_read_is_an_error_by_name(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "n1").mkdir(exist_ok=True)
        (tmp_path / "n1" / name).write_bytes(b"x")
    source = detect(str(tmp_path))
    entries = list(source.entries("train"))
    (tmp_path / "n1/b").unlink()
    with pytest.raises(TenchError, match=r"n1/b: No such file.*changed while it was read"):
        list(source.read(source.place, entries))


def _open_below(folder: Path) -> list[str]:
    """The files in `folder` that this process holds open; what others open and close meanwhile does not count."""
    held = []
    for number in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            held.append(os.readlink(f"/proc/self/fd/{number}"))
    return [path for path in held if Path(path).is_relative_to(folder)]


def test_no_file_stays_open_when_reading_ends_early(tiny_source: TinySource) -> None:
    source = detect(str(tiny_source.official))
    entries = list(source.entries("train"))
    reading = source.read(source.place, entries)
    next(reading)
    assert _open_below(tiny_source.official)
    del reading
    gc.collect()
    assert not _open_below(tiny_source.official)
