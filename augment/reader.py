"""Rows of the index to payloads: views into the memory maps of the shards, each checked before it is used.

A damaged payload stops the run, or, if that is asked for, is replaced by the next intact sample of the split: a rule
that depends on the data alone, so that every rank and every world size gets the same.
"""

import mmap
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import psutil
from crc32c import crc32c

from ingest.centring import INT16
from ingest.dataset import Split
from ingest.errors import DamageError

Rows = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]
WITHOUT_LOCK = 1
"""What tells the checksum to let other threads run meanwhile, however short the payload is."""


class PayloadReader:
    """Reads the payloads of a split, from several threads at once if need be.

    `map_shard` gives the bytes of a shard (uint8) by its number; `replace`: go on without what is damaged.
    """

    def __init__(self, split: Split, map_shard: Callable[[int], Bytes], replace: bool) -> None:
        self.split, self.replace = split, replace
        self._map_shard = map_shard
        self._lost: dict[int, DamageError] = {}
        # Where all shards fit into memory, each is asked for as a whole and once, which is no work for each sample.
        self._fits = sum(shard.size for shard in split.shards) < psutil.virtual_memory().available // 2
        self._asked_for: set[int] = set()
        self.damaged: dict[int, str] = {}
        """What was found wrong with samples that were replaced, by sample number."""

    def payload(self, row: int) -> tuple[Bytes, int]:
        """A sample's payload, checked, and the sample that it is of: another one only if this one was replaced.

        Raises DamageError naming shard, key and offset.
        """
        for candidate in range(row, row + self.split.num_samples):
            found = candidate % self.split.num_samples
            try:
                return self._checked(found), found
            except DamageError as error:
                self.give_up(found, error)
        raise DamageError(f"{self.split.dataset.uri}: every sample of {self.split.name} is damaged")

    def give_up(self, row: int, error: DamageError) -> None:
        """Note that a sample is replaced. Raises its error if that is not asked for."""
        if not self.replace:
            raise error
        self.damaged[row] = error.message

    def read_ahead(self, rows: Rows) -> None:
        """Ask the system to bring payloads into memory, without waiting for them, if it cannot hold all shards."""
        if self._fits:
            return
        split = self.split
        columns = (split.shard[rows], split.offset[rows], split.length[rows])
        for shard, offset, length in zip(*(column.tolist() for column in columns), strict=True):
            try:
                mapped = _mapping(self._shard(shard))
            except DamageError:
                continue  # Whoever reads the payload is told.
            if mapped is not None:
                start = offset - offset % mmap.PAGESIZE
                mapped.madvise(mmap.MADV_WILLNEED, start, offset + length - start)

    def _checked(self, row: int) -> Bytes:
        split, shard = self.split, int(self.split.shard[row])
        start = int(split.offset[row])
        view = self._shard(shard)[start : start + int(split.length[row])]
        if crc32c(view.data, 0, WITHOUT_LOCK) != split.crc32c[row]:
            raise DamageError(
                f"{split.dataset.place.name(split.shards[shard].path)}: the payload of {split.key(row)} at byte "
                f"{start} is not what was written (CRC32C); `tench verify {split.dataset.uri}` lists all damage"
            )
        return view

    def _shard(self, number: int) -> Bytes:
        """A shard's bytes. One that cannot be had is not asked for again while its samples are replaced."""
        if number in self._lost:
            raise self._lost[number]
        try:
            shard = self._map_shard(number)
        except DamageError as error:
            if self.replace:
                self._lost[number] = error
            raise
        if self._fits and number not in self._asked_for:
            self._asked_for.add(number)
            if (mapped := _mapping(shard)) is not None:
                mapped.madvise(mmap.MADV_WILLNEED)
        return shard


def stored_picture(payload: Bytes, kind: str, side: int) -> npt.NDArray[np.uint8] | npt.NDArray[np.int16]:
    """(side, side, 3) of a payload that is no JPEG: uint8 in place (raw), or int16, 128 x (pixel - mean) (centered)."""
    if kind == "raw":
        return payload.reshape(side, side, 3)
    # Copied: in a shard 16-bit values may begin at an odd byte.
    return payload.copy().view(INT16).reshape(side, side, 3)


def by_place(split: Split, rows: Rows) -> Rows:
    """The order that sorts rows by where their payloads lie: (shard, offset)."""
    return np.lexsort((split.offset[rows], split.shard[rows]))


def _mapping(view: object) -> mmap.mmap | None:
    """The memory map under an array, if there is one."""
    while isinstance(view, np.ndarray):
        view = view.base
    return view if isinstance(view, mmap.mmap) else None
