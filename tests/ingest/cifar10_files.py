"""CIFAR-10's files as they were published, made of any pictures: pickles of Python 2, in a folder or an archive."""

import io
import struct
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
BATCHES = ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"]
FOLDER, ARCHIVE = "cifar-10-batches-py", "cifar-10-python.tar.gz"
MARK, STOP = b"(", b"."
Pixels = npt.NDArray[np.uint8]


def py2(value: Any) -> bytes:
    """Protocol 2 of Python 2, without the memo: its strings have opcodes that Python 3 no longer writes."""
    if isinstance(value, bytes):
        return b"U" + bytes([len(value)]) + value if len(value) < 256 else b"T" + struct.pack("<i", len(value)) + value
    if isinstance(value, int):
        return b"K" + bytes([value]) if 0 <= value < 256 else b"J" + struct.pack("<i", value)
    if isinstance(value, list):
        return b"](" + b"".join(map(py2, value)) + b"e"
    if isinstance(value, dict):
        return b"}(" + b"".join(py2(key) + py2(item) for key, item in value.items()) + b"u"
    return numpy1(value)


def numpy1(array: Pixels) -> bytes:
    """An array as NumPy 1 pickled it: an empty one, then its state."""
    empty = b"cnumpy.core.multiarray\n_reconstruct\n" + b"cnumpy\nndarray\n" + py2(0) + b"\x85" + py2(b"b") + b"\x87R"
    dtype = b"cnumpy\ndtype\n" + py2(array.dtype.str[1:].encode()) + py2(0) + py2(1) + b"\x87R"
    dtype += MARK + py2(3) + py2(b"|") + b"NNN" + py2(-1) + py2(-1) + py2(0) + b"tb"
    by_columns = array.flags.f_contiguous and not array.flags.c_contiguous
    flag, data = (b"\x88", array.tobytes("F")) if by_columns else (b"\x89", array.tobytes())
    shape = MARK + b"".join(map(py2, array.shape)) + b"t"
    return empty + MARK + py2(1) + shape + dtype + flag + py2(data) + b"tb"


def dump(value: Any) -> bytes:
    return b"\x80\x02" + py2(value) + STOP


def batch(pixels: Pixels, labels: Iterable[int], names: Iterable[str]) -> dict[bytes, Any]:
    """A batch of uint8 (n, 32, 32, 3) pictures: rows of planes."""
    rows = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)).reshape(len(pixels), 3072)
    return {
        b"batch_label": b"a batch", b"labels": list(labels), b"data": rows, b"filenames": [n.encode() for n in names]
    }  # fmt: skip


def pictures(count: int, seed: int) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), np.uint8)


def files_of(train: Pixels, train_labels: list[int], test: Pixels, test_labels: list[int]) -> dict[str, bytes]:
    """The files of the folder: five batches of equal size, the test batch, and the names."""
    files, size = {}, len(train) // 5
    for number, name in enumerate(BATCHES[:5]):
        part = slice(number * size, (number + 1) * size)
        stems = [f"{name}_s_{row:06d}.png" for row in range(size)]
        files[name] = dump(batch(train[part], train_labels[part], stems))
    files["test_batch"] = dump(batch(test, test_labels, [f"test_s_{row:06d}.png" for row in range(len(test))]))
    meta = {b"num_cases_per_batch": size, b"label_names": [n.encode() for n in NAMES], b"num_vis": 3072}
    return files | {"batches.meta": dump(meta), "readme.html": b"<html>"}


def small() -> dict[str, bytes]:
    """Ten pictures of each class to train on, and one to test."""
    return files_of(pictures(100, 1), [n % 10 for n in range(100)], pictures(10, 2), list(range(10)))


def write(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def write_archive(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(folder / ARCHIVE, "w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(f"{FOLDER}/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return folder


def sheet(archive: tarfile.TarFile, name: str) -> Pixels:
    """uint8 (5000, 32, 32, 3): the tiles of a sheet, row by row."""
    image = np.asarray(Image.open(io.BytesIO(member(archive, name))).convert("RGB"))
    return image.reshape(100, 32, 50, 32, 3).swapaxes(1, 2).reshape(5000, 32, 32, 3)


def member(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    assert file is not None
    return file.read()
