"""PNG files of pixel arrays, for pages, sheets and figures."""

import io

import numpy as np
import numpy.typing as npt
from PIL import Image


def png_bytes(pixels: npt.NDArray[np.uint8]) -> bytes:
    """A PNG file of uint8 (height, width, 3) pixels."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
