"""Pixels to centred payloads and back: 128 x (pixel - mean), exact to 1/256, in 16 bits."""

import numpy as np
import numpy.typing as npt

from ingest.pixel_stats import Float64

SCALE = 128
INT16 = np.dtype("<i2")


def centred(pixels: npt.NDArray[np.uint8], mean: Float64) -> bytes:
    """The centred payload of uint8 (side, side, 3) pixels."""
    return np.rint(SCALE * (pixels - mean)).astype(INT16).tobytes()


def restored(payload: bytes, mean: Float64) -> npt.NDArray[np.uint8]:
    """The uint8 (side, side, 3) pixels of a centred payload, exactly."""
    values = np.frombuffer(payload, INT16).reshape(mean.shape)
    return np.rint(values / SCALE + mean).clip(0, 255).astype(np.uint8)
