"""Picture files for tests, and the rule of rescaling once more: plain Pillow, exact fractions, NumPy slices."""

import io
import math
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]
FILTERS = {
    "bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC, "lanczos": Image.Resampling.LANCZOS
}  # fmt: skip


def noise(width: int, height: int, seed: int = 0, channels: int = 3) -> Pixels:
    """Smooth colours with some noise, uint8 (height, width, channels): no two parts look alike."""
    random = np.random.default_rng([seed, width, height])
    rows, columns = np.mgrid[0:height, 0:width]
    planes = [rows * (k + 1) + columns * (3 - k) + random.integers(0, 40, (height, width)) for k in range(channels)]
    return (np.stack(planes, axis=-1) % 256).astype(np.uint8)


def file_of(pixels: Pixels | Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """A picture file."""
    file = io.BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(file, kind, **options)
    return file.getvalue()


def reference(data: bytes, side: int, name: str = "bicubic") -> Pixels:
    """uint8 (side, side, 3): shorter side to `side`, halves up; then the centre, its start rounded down."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    width, height = image.size
    long = math.floor(Fraction(max(width, height) * side, min(width, height)) + Fraction(1, 2))
    target = (side, long) if width <= height else (long, side)
    scaled = np.asarray(image if image.size == target else image.resize(target, FILTERS[name]))
    top, left = (scaled.shape[0] - side) // 2, (scaled.shape[1] - side) // 2
    return scaled[top : top + side, left : left + side]
