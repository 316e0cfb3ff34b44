"""What was delivered: a count and an order-free hash of (sample, choices), to prove that nothing was lost or repeated.

The parts of ranks, and of an epoch that was interrupted, add up to those of the whole epoch (see choices.md).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from augment.choices import Choices

Hashes = npt.NDArray[np.uint64]
MODULUS = 2**64


@dataclass(frozen=True)
class Ledger:
    """`count` samples; `digest`: the sum of their hashes modulo 2**64."""

    count: int = 0
    digest: int = 0

    def plus(self, other: "Ledger") -> "Ledger":
        """Both together."""
        return Ledger(self.count + other.count, (self.digest + other.digest) % MODULUS)

    @classmethod
    def of(cls, hashes: Hashes) -> "Ledger":
        """That of samples with these hashes."""
        return cls(len(hashes), int(hashes.sum(dtype=np.uint64)))


def sample_hashes(epoch: int, samples: npt.NDArray[np.int64], choices: Choices) -> Hashes:
    """The hash of each sample number with the choice made for it, uint64 (n,)."""
    geometry = choices.y << 33 | choices.x << 1 | choices.mirror
    colour = np.ascontiguousarray(choices.offset).view(np.uint32).astype(np.uint64)
    found = _mixed(samples.astype(np.uint64) ^ _mixed(np.array([epoch], np.uint64)))
    for part in (geometry.astype(np.uint64), colour[:, 0] | colour[:, 1] << np.uint64(32), colour[:, 2]):
        found = _mixed(found ^ part)
    return found


def _mixed(value: Hashes) -> Hashes:
    """SplitMix64's step and finaliser."""
    value = value + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ value >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ value >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return value ^ value >> np.uint64(31)
