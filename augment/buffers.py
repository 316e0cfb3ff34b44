"""Memory for batches, used again once nobody holds it.

A batch of 128 float32 crops is 77 MB. Taken from the system and given back each step, its pages would be faulted in
and zeroed every time, which costs more than finishing the pictures.
"""

import sys
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

Array = npt.NDArray[np.uint8]


class Buffers:
    """CPU tensors whose memory stays theirs as long as a tensor, or any view of it, is alive.

    At most `keep` pieces are kept for use again; more are made when more are held. For one thread at a time.
    """

    def __init__(self, keep: int) -> None:
        self._keep = keep
        self._arrays: list[Array] = []

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """A tensor with undefined values."""
        size = int(np.prod(shape)) * dtype.itemsize
        if size == 0:
            return torch.empty(shape, dtype=dtype)
        # The tensor's storage refers to the array until it is freed: that is how we know what is in use.
        return torch.from_numpy(self._array(size))[:size].view(dtype).view(shape)

    def clear(self) -> None:
        """Let go of what is not in use."""
        self._arrays.clear()

    def _array(self, size: int) -> Array:
        for array, references in zip(self._arrays, _references(self._arrays), strict=True):
            if references == IDLE and len(array) >= size:
                return array
        made = np.empty(size, np.uint8)
        # What is forgotten here is too small, or the oldest; its tensors keep it alive.
        fitting = [array for array in self._arrays if len(array) >= size]
        self._arrays = [*fitting[1 - self._keep :], made]
        return made


def _references(arrays: Sequence[Array]) -> list[int]:
    return [sys.getrefcount(array) for array in arrays]


IDLE = _references([np.empty(0, np.uint8)])[0]
