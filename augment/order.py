"""The order of an epoch and the rows of each batch: pure functions of position, for any number of ranks."""

import hashlib
import json
import math
from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from augment.random_words import key_of, philox4x32
from augment.settings import LoaderSettings

Rows = npt.NDArray[np.int64]
ORDER_STREAM = 2
FEISTEL_ROUNDS = 8


class EpochOrder:
    """The order in which one epoch takes the samples of a split.

    `shard_sizes` (samples of each shard, in index order) matter only with a `window`.
    """

    def __init__(self, num_samples: int, settings: LoaderSettings, epoch: int, shard_sizes: Sequence[int] = ()) -> None:
        self.num_samples = num_samples
        self.settings = settings
        self.epoch = epoch
        self._shard_sizes = shard_sizes

    @property
    def num_steps(self) -> int:
        """Global batches in the epoch."""
        whole, rest = divmod(self.num_samples, self.settings.global_batch)
        return whole if self.settings.tail == "drop" or not rest else whole + 1

    def positions(self, step: int) -> Rows:
        """Positions in the epoch's order of global batch `step`: consecutive; past the end only with tail `wrap`."""
        first = step * self.settings.global_batch
        last = first + self.settings.global_batch
        return np.arange(first, last if self.settings.tail == "wrap" else min(last, self.num_samples))

    def samples(self, positions: Rows) -> Rows:
        """Sample numbers at positions of the order."""
        inside = positions % self.num_samples
        if self.settings.order == "fixed":
            return inside
        windows = np.searchsorted(self._ends, inside, side="right")
        found = np.empty_like(inside)
        for window in np.unique(windows):
            mask = windows == window
            start = int(self._ends[window - 1]) if window else 0
            size = int(self._ends[window]) - start
            found[mask] = start + permuted(inside[mask] - start, size, self.settings.seed, self.epoch, int(window))
        return found

    def share(self, step: int, rank: int, world_size: int, places: npt.NDArray[np.int64] | None = None) -> Rows:
        """Places in global batch `step` (0 = its first row) that belong to a rank, in increasing order.

        Without a window: rank, rank + world_size, ... With a window, `places` ranks the batch's rows by where they
        lie, and a rank takes a contiguous part of that, so that it reads few shards.
        """
        size = len(self.positions(step))
        if places is None:
            return np.arange(rank, size, world_size)
        bounds = [size * r // world_size for r in (rank, rank + 1)]
        return np.sort(places[bounds[0] : bounds[1]])

    @cached_property
    def _ends(self) -> Rows:
        """End of each window in samples; one window over everything unless told."""
        if not self.settings.window or not self._shard_sizes:
            return np.array([self.num_samples])
        ends = np.cumsum(self._shard_sizes)
        return np.unique(np.append(ends[self.settings.window - 1 :: self.settings.window], ends[-1]))


def permuted(index: Rows, size: int, seed: int, epoch: int, window: int = 0) -> Rows:
    """Where a keyed permutation of 0..size-1 sends each index: a Feistel network over a rectangle (choices.md)."""
    rows = math.isqrt(size - 1) + 1 if size > 1 else 1
    columns = -(-size // rows)
    keys = _round_keys(seed, epoch, window)
    found = _feistel(index.astype(np.uint64), rows, columns, keys)
    while (outside := found >= size).any():
        found[outside] = _feistel(found[outside], rows, columns, keys)
    return found.astype(np.int64)


def order_facts(settings: LoaderSettings) -> dict[str, Any]:
    """Everything that decides which samples form batch s, and which of them share a crop."""
    names = ("seed", "global_batch", "order", "tail", "crop_chunk", "window")
    return {name: getattr(settings, name) for name in names}


def order_id(settings: LoaderSettings) -> str:
    """Names the order: a state of another one cannot be continued."""
    return hashlib.sha256(json.dumps(order_facts(settings), sort_keys=True).encode()).hexdigest()[:32]


@lru_cache(4096)
def _round_keys(seed: int, epoch: int, window: int) -> tuple[int, ...]:
    """Words of two Philox blocks: word 0 of both, then word 1 of both, and so on."""
    blocks = philox4x32(([2 * window, 2 * window + 1], 0, epoch, ORDER_STREAM), key_of(seed))
    return tuple(int(word) for pair in blocks for word in pair)


def _feistel(index: npt.NDArray[np.uint64], rows: int, columns: int, keys: tuple[int, ...]) -> npt.NDArray[np.uint64]:
    a, b = np.uint64(rows), np.uint64(columns)
    left, right = index // b, index % b
    for key in keys:
        left = (left + (_fmix32(right ^ np.uint64(key)) * a >> np.uint64(32))) % a
        left, right, a, b = right, left, b, a
    return left * b + right


def _fmix32(value: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """MurmurHash3's finaliser."""
    mask = np.uint64(0xFFFFFFFF)
    value = value ^ (value >> np.uint64(16))
    value = value * np.uint64(0x85EBCA6B) & mask
    value = value ^ (value >> np.uint64(13))
    value = value * np.uint64(0xC2B2AE35) & mask
    return value ^ (value >> np.uint64(16))
