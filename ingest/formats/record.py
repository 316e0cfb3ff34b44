"""What a shard is made of, and what its writer reports."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from crc32c import crc32c

Bytes = npt.NDArray[np.uint8]
"""A file's bytes, read-only: slices cost nothing, and hashes and checksums are taken in place."""


@dataclass(frozen=True, slots=True)
class Record:
    """One sample on its way into a shard. `label` is -1 without one; sizes are those of the source's picture."""

    key: str
    label: int
    wnid: str
    payload: bytes
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class WrittenShard:
    """A shard's bytes as the pieces that follow one another, and where each payload begins: uint64 (num_samples,).

    The payloads are pieces as they came: joining them would copy a shard, and raw ones have 200 MB of it.
    """

    pieces: list[memoryview]
    offsets: npt.NDArray[np.uint64]
    side_files: dict[str, bytes]
    """Files that belong beside the shard, by the extension that replaces the shard's own."""


@dataclass(frozen=True)
class IndexRows:
    """What the index states of the records of one shard, in their order."""

    keys: list[str]
    labels: list[int]
    offsets: list[int]
    lengths: list[int]
    checksums: list[int]
    widths: list[int]
    heights: list[int]

    @classmethod
    def of(cls, table: Any) -> "IndexRows":
        """The rows of a table with the index's columns."""
        names = ("key", "label", "offset", "length", "crc32c", "width", "height")
        return cls(*(table.column(name).to_pylist() for name in names))

    def __len__(self) -> int:
        return len(self.keys)

    def name(self, number: int) -> str:
        """How a record is named in messages."""
        return f"record {number} ({self.keys[number]})"

    def wnid(self, number: int) -> str:
        return self.keys[number].rpartition("/")[0]

    def payload(self, number: int, data: Bytes) -> Bytes:
        """A record's payload in the bytes of its shard; shorter, or empty, if they end before."""
        return data[self.offsets[number] : self.offsets[number] + self.lengths[number]]

    def payload_problem(self, number: int, data: Bytes) -> str | None:
        """What is wrong with a payload, None if it has its checksum."""
        where = f"{self.name(number)}: its payload at {self.offsets[number]}"
        payload = self.payload(number, data)
        if len(payload) < self.lengths[number]:
            return f"{where} is cut: {len(payload)} of {self.lengths[number]} bytes"
        if crc32c(payload.data) != self.checksums[number]:
            return f"{where} has another checksum"
        return None
