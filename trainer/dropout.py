"""Dropout masks without state: a function of (seed, step, layer, row of the global batch, unit).

So every number of workers and every resume sees the same masks. Words come from the generator that augmentation
uses (augment/choices.md), in streams of their own: index = row, second counter word = block of 128 units, epoch's
place = step, stream = 16 + layer. Bit b (from the lowest) of word w of block j decides unit 128 j + 32 w + b.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from augment.random_words import key_of, philox4x32

FIRST_STREAM = 16
BLOCK = 128


@dataclass(frozen=True)
class DropoutKey:
    """What a step's masks depend on: the run's seed, the step, and int64 (n,) rows of the global batch."""

    seed: int
    step: int
    rows: npt.NDArray[np.int64]

    def part(self, first: int, last: int) -> "DropoutKey":
        """The key of rows first .. last - 1 (a micro-batch)."""
        return DropoutKey(self.seed, self.step, self.rows[first:last])


def keep_mask(key: DropoutKey, layer: int, units: int, device: torch.device) -> torch.Tensor:
    """float32 (n, units): 1 with probability one half, else 0."""
    blocks = np.arange(-(-units // BLOCK), dtype=np.uint64)
    counter = (key.rows.astype(np.uint64)[:, None], blocks[None], key.step, FIRST_STREAM + layer)
    words = np.stack(philox4x32(counter, key_of(key.seed)), axis=-1).astype("<u4")
    packed = words.reshape(len(key.rows), len(blocks) * 4).view(np.uint8)
    bits = np.unpackbits(packed, axis=1, count=units, bitorder="little")
    return torch.from_numpy(bits).to(device).float()
