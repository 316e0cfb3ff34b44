"""Rows of the index to payloads: views into the memory maps of the shards, each checked before it is used."""

import mmap

import numpy as np
import numpy.typing as npt
from crc32c import crc32c

from ingest.dataset import Split
from ingest.errors import DamageError

Rows = npt.NDArray[np.int64]


def read_ahead(split: Split, rows: Rows) -> None:
    """Ask the system to bring the rows' payloads into memory, all at once and without waiting for them."""
    for shard, offset, length in _places(split, rows):
        mapped = _mapping(split.map_shard(shard))
        if mapped is not None:
            start = offset - offset % mmap.PAGESIZE
            mapped.madvise(mmap.MADV_WILLNEED, start, offset + length - start)


def payload_views(split: Split, rows: Rows) -> list[npt.NDArray[np.uint8]]:
    """One uint8 view a row, without a copy. Raises DamageError naming shard, key and offset of a changed payload."""
    views = []
    wanted = split.crc32c[rows].tolist()
    for i, (shard, offset, length) in enumerate(_places(split, rows)):
        view = split.map_shard(shard)[offset : offset + length]
        if crc32c(view.data) != wanted[i]:
            raise DamageError(
                f"{split.dataset.place.name(split.shards[shard].path)}: the payload of {split.key(int(rows[i]))} at "
                f"byte {offset} is not what was written (CRC32C); `tench verify {split.dataset.uri}` lists all damage"
            )
        views.append(view)
    return views


def by_place(split: Split, rows: Rows) -> Rows:
    """The order that sorts rows by where their payloads lie: (shard, offset)."""
    return np.lexsort((split.offset[rows], split.shard[rows]))


def _places(split: Split, rows: Rows) -> list[tuple[int, int, int]]:
    """(shard, offset, length) of each row, as plain numbers."""
    columns = (split.shard[rows], split.offset[rows], split.length[rows])
    return list(zip(*(column.tolist() for column in columns), strict=True))


def _mapping(view: object) -> mmap.mmap | None:
    """The memory map under an array, if there is one."""
    while isinstance(view, np.ndarray):
        view = view.base
    return view if isinstance(view, mmap.mmap) else None
