"""Tar archives in ImageNet's shape, written and read by Python's tarfile alone."""

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io

TRAIN, VAL = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
TEST, DEVKIT = "ILSVRC2012_img_test_v10102019.tar", "ILSVRC2012_devkit_t12.tar.gz"
META = "ILSVRC2012_devkit_t12/data/meta.mat"
TRUTH = "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt"


def tar_bytes(members: Iterable[tuple[str, bytes]], mode: Any = "w") -> bytes:
    """An archive of plain files."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def train_tar(classes: dict[str, list[tuple[str, bytes]]]) -> bytes:
    """A tar of class tars."""
    return tar_bytes((f"{wnid}.tar", tar_bytes(pictures)) for wnid, pictures in classes.items())


def devkit(meta: bytes, truth: bytes) -> bytes:
    """A development kit of its two files that matter and one that does not."""
    return tar_bytes([("ILSVRC2012_devkit_t12/readme.txt", b"read me"), (META, meta), (TRUTH, truth)], "w:gz")


def class_table(year: int, leaves: list[tuple[str, str]], inner: tuple[str, ...] = ()) -> bytes:
    """A meta.mat: the leaves as wnid and words, numbered from 1 as they come, then the classes above them."""
    names = (f"ILSVRC{year}_ID", "WNID", "words", "num_children")
    rows = np.zeros((len(leaves) + len(inner), 1), dtype=[(name, object) for name in names])
    for number, (wnid, words) in enumerate(leaves, start=1):
        rows[number - 1, 0] = (float(number), wnid, words, 0.0)
    for number, wnid in enumerate(inner, start=len(leaves) + 1):
        rows[number - 1, 0] = (float(number), wnid, "above", 2.0)
    file = io.BytesIO()
    scipy.io.savemat(file, {"synsets": rows})
    return file.getvalue()


def devkit_files(official: Path) -> tuple[bytes, bytes]:
    """meta.mat and the ground truth of a development kit."""
    kit = unpacked((official / DEVKIT).read_bytes())
    return kit[META], kit[TRUTH]


def unpacked(data: bytes) -> dict[str, bytes]:
    """Every file of an archive by its name."""
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return {m.name: file.read() for m in archive.getmembers() if (file := archive.extractfile(m))}


def training_pictures(official: Path) -> dict[str, bytes]:
    """Key -> bytes of the training archive."""
    return {
        f"{class_tar.removesuffix('.tar')}/{name.removesuffix('.JPEG')}": data
        for class_tar, inner in unpacked((official / TRAIN).read_bytes()).items()
        for name, data in unpacked(inner).items()
    }


def validation_pictures(official: Path) -> dict[str, bytes]:
    """Key -> bytes of the validation archive: picture n has the class of line n of the ground truth."""
    meta, truth = devkit_files(official)
    rows = scipy.io.loadmat(io.BytesIO(meta))["synsets"].ravel()
    wnid_of = {int(row["ILSVRC2012_ID"].item()): str(row["WNID"].item()) for row in rows}
    classes = [wnid_of[int(line)] for line in truth.decode().splitlines()]
    return {
        f"{classes[int(name[15:23]) - 1]}/{name.removesuffix('.JPEG')}": data
        for name, data in unpacked((official / VAL).read_bytes()).items()
    }


def broken_archive(shared_data: Path, name: str) -> bytes:
    """A class archive with a defect, of those that `broken-pictures.tar` holds. Never to be unpacked to disk."""
    return unpacked((shared_data / "broken-pictures.tar").read_bytes())[f"broken/archives/n01440764_{name}.tar"]
