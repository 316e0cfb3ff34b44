"""Exact integer sums over rescaled pixels, and the mean image and RGB PCA that follow from them.

Sums are integers, so they do not depend on the order of addition or on who added what; everything derived from
them is float64. Pixel values are 0-255.
"""

import hashlib
import io
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
EXACT_PICTURES = 257
"""257 x 255 is the largest number of 16 bits."""
EXACT_PRODUCTS = 256
"""256 x 255 x 255 is below 2**24, up to which float32 has every whole number."""
_ONE_AT_A_TIME = threading.Lock()
"""NumPy reads a header with Python's own parser, which in CPython 3.11 fails now and then when threads share it."""
CHANNEL_PAIRS = tuple((i, j) for i in range(3) for j in range(i, 3))


class PixelSums:
    """Sums over `count` pictures: `pixels` uint64 (side, side, 3), `moments` uint64 (3, 3) of channel products.

    Adding comes after every decode, so it is done a channel at a time, in the narrowest types that are still exact:
    uint16 holds the sum of 257 pictures, float32 that of 256 products.
    """

    def __init__(self, side: int, count: int = 0) -> None:
        self.side, self.count = side, count
        self._pixels = np.zeros((side, side, 3), np.uint64)
        self._moments = np.zeros((3, 3), np.uint64)
        self._recent = np.zeros((3, side, side), np.uint16)
        self._num_recent = 0
        blocks = -(-side * side // EXACT_PRODUCTS)
        self._planes = np.zeros((3, blocks, EXACT_PRODUCTS), np.float32)
        self._recent_products = np.zeros((len(CHANNEL_PAIRS), blocks), np.float64)

    @property
    def pixels(self) -> npt.NDArray[np.uint64]:
        """Sum of each pixel and channel."""
        self._settle()
        return self._pixels

    @property
    def moments(self) -> npt.NDArray[np.uint64]:
        """Sum of the products of each two channels over all pixels."""
        self._settle()
        return self._moments

    def add(self, pixels: npt.NDArray[np.uint8]) -> None:
        """Count one uint8 (side, side, 3) picture."""
        self.add_planes(np.ascontiguousarray(pixels.reshape(-1, 3).T))

    def add_planes(self, planes: npt.NDArray[np.uint8]) -> None:
        """Count one picture, uint8 (3, side * side): its red, green and blue values."""
        if self._num_recent == EXACT_PICTURES:
            self._settle()
        self._recent += planes.reshape(self._recent.shape)
        self._num_recent += 1
        self.count += 1
        exact = self._planes  # (3, blocks, products), zeros behind the last pixel
        exact.reshape(3, -1)[:, : self.side**2] = planes
        for pair, (i, j) in enumerate(CHANNEL_PAIRS):
            self._recent_products[pair] += np.vecdot(exact[i], exact[j])

    def merge(self, other: "PixelSums") -> None:
        """Add the sums of other pictures."""
        self.count += other.count
        self._pixels += other.pixels
        self._moments += other.moments

    def _settle(self) -> None:
        """Move the recent pictures to the totals."""
        self._pixels += self._recent.transpose(1, 2, 0)
        for (i, j), products in zip(CHANNEL_PAIRS, self._recent_products, strict=True):
            total = products.astype(np.uint64).sum()
            self._moments[i, j] += total
            self._moments[j, i] += total if i != j else np.uint64(0)
        self._recent.fill(0)
        self._recent_products.fill(0)
        self._num_recent = 0

    def to_bytes(self) -> bytes:
        """An .npz file with arrays count, pixels, moments; equal sums give equal bytes."""
        pixels, file = self.pixels, io.BytesIO()
        arrays: dict[str, Any] = {
            "count": np.uint64(self.count),
            "pixels": pixels.astype(np.uint32) if pixels.max(initial=0) < 2**32 else pixels,
            "moments": self.moments,
        }
        np.savez(file, **arrays)
        return file.getvalue()

    def digest(self) -> str:
        """SHA-256 of the values themselves, whatever file holds them."""
        digest = hashlib.sha256(self.count.to_bytes(8, "little"))
        for values in (self.pixels, self.moments):
            digest.update(values.astype("<u8").tobytes())
        return digest.hexdigest()

    @classmethod
    def from_bytes(cls, data: bytes) -> "PixelSums":
        """The sums of an .npz file of `to_bytes`."""
        with _ONE_AT_A_TIME, np.load(io.BytesIO(data), allow_pickle=False) as file:
            sums = cls(int(file["pixels"].shape[0]), int(file["count"]))
            sums._pixels = file["pixels"].astype(np.uint64)
            sums._moments = file["moments"].astype(np.uint64)
            return sums


@dataclass(frozen=True)
class Pca:
    """Principal axes of the RGB values of all training pixels, in pixel units (0-255).

    `eigenvalues` (3,) float64, descending, in pixel units squared; `eigenvectors` (3, 3), one axis a column, each
    with its largest component positive; `stdevs` their square roots; `covariance` (3, 3) about the channel mean.
    """

    eigenvalues: Float64
    eigenvectors: Float64
    channel_mean: Float64
    covariance: Float64

    @property
    def stdevs(self) -> Float64:
        return np.sqrt(self.eigenvalues)

    def to_json(self) -> dict[str, Any]:
        """Values in pixel units, and eigenvalues also for channels on [0, 1]."""
        return {
            "channel_mean": self.channel_mean.tolist(),
            "covariance": self.covariance.tolist(),
            "eigenvalues": self.eigenvalues.tolist(),
            "eigenvectors_columns": self.eigenvectors.tolist(),
            "stdevs": self.stdevs.tolist(),
            "eigenvalues_unit_range": (self.eigenvalues / 255.0**2).tolist(),
            "stdevs_unit_range": (self.stdevs / 255.0).tolist(),
        }


def mean_image(sums: PixelSums) -> Float64:
    """float64 (side, side, 3), RGB, 0-255: the mean of each pixel over the pictures."""
    return sums.pixels.astype(np.float64) / max(sums.count, 1)


def rgb_pca(sums: PixelSums) -> Pca:
    """PCA of the RGB values of all pixels (2012 paper, section 4.1), about their mean."""
    num_pixels = max(sums.count, 1) * sums.side * sums.side
    totals = [int(sums.pixels[..., c].sum(dtype=np.uint64)) for c in range(3)]
    covariance = np.empty((3, 3))
    for i in range(3):
        for j in range(3):
            # Whole numbers up to the last division: no cancellation.
            covariance[i, j] = (int(sums.moments[i, j]) * num_pixels - totals[i] * totals[j]) / num_pixels**2
    values, vectors = np.linalg.eigh(covariance)
    values, vectors = np.clip(values[::-1], 0.0, None), vectors[:, ::-1]
    largest = np.abs(vectors).argmax(axis=0)
    vectors = vectors * np.sign(vectors[largest, range(3)])
    return Pca(values, np.ascontiguousarray(vectors), np.array(totals) / num_pixels, covariance)
