"""What a shard is made of, and what its writer reports."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


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
    """A shard's bytes, and where each payload begins in them: uint64 (num_samples,)."""

    data: memoryview
    offsets: npt.NDArray[np.uint64]
    side_files: dict[str, bytes]
    """Files that belong beside the shard, by the extension that replaces the shard's own."""
