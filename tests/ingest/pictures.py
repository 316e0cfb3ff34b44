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
    """uint8 (side, side, 3): shorter side to `side`, halves up; of that the centre, its start rounded down.

    The centre is cut while scaling, in the picture's coordinates: exactly what is stored.
    """
    image = Image.open(io.BytesIO(data)).convert("RGB")
    target = _target(image, side)
    edges = [(new - side) // 2 + offset for offset in (0, side) for new in target]
    left, top, right, bottom = (
        float(Fraction(e * old, new)) for e, old, new in zip(edges, image.size * 2, target * 2, strict=True)
    )
    if image.size == target:
        return np.asarray(image.crop((left, top, right, bottom)))
    return np.asarray(image.resize((side, side), FILTERS[name], box=(left, top, right, bottom)))


def scaled_then_cut(data: bytes, side: int) -> Pixels:
    """The same in two plain steps: all of the picture is scaled, then the centre is cut out."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    target = _target(image, side)
    scaled = np.asarray(image if image.size == target else image.resize(target, Image.Resampling.BICUBIC))
    top, left = (scaled.shape[0] - side) // 2, (scaled.shape[1] - side) // 2
    return scaled[top : top + side, left : left + side]


def _target(image: Image.Image, side: int) -> tuple[int, int]:
    width, height = image.size
    long = math.floor(Fraction(max(width, height) * side, min(width, height)) + Fraction(1, 2))
    return (side, long) if width <= height else (long, side)
