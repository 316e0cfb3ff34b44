"""Exact integer sums over rescaled pixels, and the mean image and RGB PCA that follow from them.

Sums are integers, so they do not depend on the order of addition or on who added what; everything derived from
them is float64. Pixel values are 0-255.
"""

import hashlib
import io
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]


@dataclass
class PixelSums:
    """Sums over `count` pictures: uint64 (side, side, 3) per pixel, uint64 (3, 3) of channel products."""

    side: int
    count: int = 0
    pixels: npt.NDArray[np.uint64] = field(init=False)
    moments: npt.NDArray[np.uint64] = field(init=False)

    def __post_init__(self) -> None:
        self.pixels = np.zeros((self.side, self.side, 3), np.uint64)
        self.moments = np.zeros((3, 3), np.uint64)

    def add(self, pixels: npt.NDArray[np.uint8]) -> None:
        """Count one uint8 (side, side, 3) picture."""
        planes = np.ascontiguousarray(pixels.reshape(-1, 3).T).astype(np.float64)
        # Each product sum is below 2**53 for any side up to 1024, so float64 adds them exactly.
        self.moments += (planes @ planes.T).astype(np.uint64)
        self.pixels += pixels
        self.count += 1

    def merge(self, other: "PixelSums") -> None:
        """Add the sums of other pictures."""
        self.count += other.count
        self.pixels += other.pixels
        self.moments += other.moments

    def to_bytes(self) -> bytes:
        """An .npz file with arrays count, pixels, moments; equal sums give equal bytes."""
        small = self.pixels.max(initial=0) < 2**32
        file = io.BytesIO()
        arrays: dict[str, Any] = {
            "count": np.uint64(self.count),
            "pixels": self.pixels.astype(np.uint32) if small else self.pixels,
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
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            sums = cls(int(file["pixels"].shape[0]), int(file["count"]))
            sums.pixels = file["pixels"].astype(np.uint64)
            sums.moments = file["moments"].astype(np.uint64)
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
