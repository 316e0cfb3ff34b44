"""The definition of right: what becomes of a picture, in plain NumPy. The loader has to equal it bit for bit."""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


def crop_and_flip(picture: npt.NDArray[np.uint8], y: int, x: int, mirror: bool, crop: int) -> npt.NDArray[np.uint8]:
    """uint8 (side, side, 3) -> uint8 (crop, crop, 3)."""
    cut = picture[y : y + crop, x : x + crop]
    return cut[:, ::-1] if mirror else cut


def mean_under(mean: npt.NDArray[np.float64], kind: str, y: int, x: int, mirror: bool, crop: int) -> Floats:
    """What is subtracted: float32, (crop, crop, 3) or (3,) or zero. `mean` is float64 (side, side, 3)."""
    rounded = mean.astype(np.float32)
    if kind == "none":
        return np.zeros(3, np.float32)
    if kind == "published":
        return np.asarray((123.675, 116.28, 103.53), np.float32)
    if kind == "channel":
        return np.asarray(mean.reshape(-1, 3).mean(axis=0), np.float32)
    if kind == "centre":
        start = (mean.shape[0] - crop) // 2
        return rounded[start : start + crop, start : start + crop]
    cut = rounded[y : y + crop, x : x + crop]
    flipped: Floats = cut[:, ::-1]
    return flipped if mirror else cut


def finished(pixels: npt.NDArray[np.uint8], mean: Floats, offset: Floats, divide: float) -> Floats:
    """float32 (crop, crop, 3): (pixels - mean) + offset, then one division unless it is by 1."""
    values = (pixels.astype(np.float32) - mean) + offset
    return values / np.float32(divide) if divide != 1.0 else values
