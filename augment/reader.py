"""Rows of the index to payloads: views into the memory maps of the shards, each checked before it is used."""

from collections.abc import Sequence

import google_crc32c
import numpy as np
import numpy.typing as npt

from ingest.dataset import Split
from ingest.errors import DamageError


def payload_views(split: Split, rows: npt.NDArray[np.int64]) -> list[npt.NDArray[np.uint8]]:
    """One uint8 view a row, without a copy. Raises DamageError naming shard, key and offset of a changed payload."""
    views = []
    shards, offsets, lengths = split.shard[rows].tolist(), split.offset[rows].tolist(), split.length[rows].tolist()
    wanted: Sequence[int] = split.crc32c[rows].tolist()
    for place, (shard, offset, length) in enumerate(zip(shards, offsets, lengths, strict=True)):
        view = split.map_shard(shard)[offset : offset + length]
        if google_crc32c.value(view) != wanted[place]:
            raise DamageError(
                f"{split.dataset.place.name(split.shards[shard].path)}: the payload of {split.key(int(rows[place]))} at "
                f"byte {offset} is not what was written (CRC32C); `tench verify {split.dataset.uri}` lists all damage"
            )
        views.append(view)
    return views


def by_place(split: Split, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The order that sorts rows by where their payloads lie: (shard, offset)."""
    return np.lexsort((split.offset[rows], split.shard[rows]))
