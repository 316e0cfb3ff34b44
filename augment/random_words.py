"""Random words without state: Philox4x32-10 (Random123), a function of a key and a counter."""

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint64]

MASK = np.uint64(0xFFFFFFFF)
SHIFT = np.uint64(32)
MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
WEYL = (np.uint64(0x9E3779B9), np.uint64(0xBB67AE85))
ROUNDS = 10


def philox4x32(counter: tuple[npt.ArrayLike, ...], key: tuple[int, int]) -> tuple[Words, Words, Words, Words]:
    """Four 32-bit words, each in a uint64 array of the counters' common shape.

    `counter` has four parts and `key` two, each part a 32-bit number or an array of them.
    """
    c0, c1, c2, c3 = np.broadcast_arrays(*(np.asarray(part, np.uint64) for part in counter))
    k0, k1 = np.uint64(key[0]), np.uint64(key[1])
    for _ in range(ROUNDS):
        product0, product1 = MULTIPLIERS[0] * c0, MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (product1 >> SHIFT) ^ c1 ^ k0, product1 & MASK, (product0 >> SHIFT) ^ c3 ^ k1, product0 & MASK
        k0, k1 = (k0 + WEYL[0]) & MASK, (k1 + WEYL[1]) & MASK
    return c0, c1, c2, c3


def key_of(seed: int) -> tuple[int, int]:
    """The Philox key of a seed: its low and its high 32 bits."""
    return seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF


def words(seed: int, index: npt.ArrayLike, epoch: int, stream: int) -> tuple[Words, Words, Words, Words]:
    """The four words of each index (64-bit numbers) in an epoch and a stream: see choices.md."""
    number = np.asarray(index, np.uint64)
    return philox4x32((number & MASK, number >> SHIFT, epoch, stream), key_of(seed))
