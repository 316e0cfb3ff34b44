"""The pickles of CIFAR-10's Python version, read without building anything that a stranger's pickle could name.

They were written by Python 2: a dict of strings, lists and one NumPy array. NumPy's three names get stand-ins that
only hold what they are given; every other name is refused before it is looked up.
"""

import io
import pickle
import pickletools
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ingest.errors import RefusedError

SIDE = 32
ROW_BYTES = 3 * SIDE * SIDE
MAX_MEMO = 1_000_000
"""Things that a pickle may refer back to. The C reader makes room for as many as the largest number it is told."""
MALFORMED = (
    pickle.UnpicklingError, EOFError, ValueError, TypeError, LookupError, AttributeError, OverflowError, struct.error
)  # fmt: skip


@dataclass(frozen=True)
class Batch:
    """Pictures in the order of a batch: uint8 (n, 32, 32, 3) RGB, labels, and file names."""

    pixels: npt.NDArray[np.uint8]
    labels: tuple[int, ...]
    filenames: tuple[str, ...]


def read_batch(data: bytes, name: str, num_classes: int) -> Batch:
    """A `data_batch_*` or `test_batch`. Raises RefusedError, naming the file."""
    found = _load(data, name)
    pixels, labels, filenames = (found.get(key) for key in (b"data", b"labels", b"filenames"))
    if not isinstance(pixels, _Array) or not isinstance(labels, list) or not isinstance(filenames, list):
        raise _other(name, "no array data with lists labels and filenames")
    try:
        planes = pixels.values()
    except MALFORMED as error:
        raise _other(name, f"other data ({error})") from error
    if not len(planes) == len(labels) == len(filenames):
        raise _other(name, f"{len(planes)} pictures, {len(labels)} labels and {len(filenames)} filenames")
    for row, label in enumerate(labels):
        if type(label) is not int or not 0 <= label < num_classes:
            raise _other(name, f"label {label!r} in row {row}; batches.meta names {num_classes} classes")
    return Batch(planes.transpose(0, 2, 3, 1), tuple(labels), _texts(filenames, name))


def read_label_names(data: bytes, name: str) -> tuple[str, ...]:
    """The class names of `batches.meta`; position = label. Raises RefusedError, naming the file."""
    names = _load(data, name).get(b"label_names")
    if not isinstance(names, list):
        raise _other(name, "no list label_names")
    return _texts(names, name)


class _Array:
    """Stands for numpy.ndarray, and for the function that makes an empty one."""

    def __init__(self, *_: Any) -> None:
        self._state: tuple[Any, ...] = ()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self._state = state

    def values(self) -> npt.NDArray[np.uint8]:
        """uint8 (n, 3, 32, 32). Raises ValueError for an array of another shape or type."""
        _, shape, dtype, by_columns, data = self._state
        if not isinstance(dtype, _Dtype) or dtype.code != b"u1" or not isinstance(data, bytes):
            raise ValueError("its values are no bytes")
        rows, columns = shape
        if columns != ROW_BYTES:
            raise ValueError(f"a row has {columns} bytes, not {ROW_BYTES}")
        flat = np.frombuffer(data, np.uint8).reshape((rows, columns), order="F" if by_columns else "C")
        return flat.reshape(rows, 3, SIDE, SIDE)


class _Dtype:
    """Stands for numpy.dtype."""

    def __init__(self, code: bytes = b"", *_: Any) -> None:
        self.code = code

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """Byte order and fields: single bytes have none."""


STAND_INS = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str) -> Any:
        if (stand_in := STAND_INS.get((module_name, global_name))) is None:
            raise pickle.UnpicklingError(f"it names {module_name}.{global_name}")
        return stand_in


def _load(data: bytes, name: str) -> dict[Any, Any]:
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name.endswith("PUT") and isinstance(argument, int) and argument > MAX_MEMO:
                raise pickle.UnpicklingError(f"it refers back to {argument:,} things")
        found = _Unpickler(io.BytesIO(data), encoding="bytes").load()
    except MALFORMED as error:
        raise _other(name, f"a pickle that is not opened ({error})") from error
    if not isinstance(found, dict):
        raise _other(name, f"a pickle of {type(found).__name__}")
    return found


def _texts(values: list[Any], name: str) -> tuple[str, ...]:
    try:
        return tuple(value.decode() for value in values)
    except (AttributeError, UnicodeDecodeError) as error:
        raise _other(name, f"a name that is no text ({error})") from error


def _other(name: str, found: str) -> RefusedError:
    return RefusedError(
        f"{name}: holds {found}; expected a batch of CIFAR-10 as published: data, uint8 of {ROW_BYTES} bytes a row, with "
        "labels and filenames, or the label_names of batches.meta. Fetch cifar-10-python.tar.gz again"
    )
