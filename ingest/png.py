"""PNG files of pixel arrays, for pages, sheets and figures; and both kinds of file as addresses inside a page."""

import base64
import io

import numpy as np
import numpy.typing as npt
from PIL import Image

THUMBNAIL_QUALITY = 82


def png_bytes(pixels: npt.NDArray[np.uint8]) -> bytes:
    """A PNG file of uint8 (height, width, 3) pixels."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def png_uri(pixels: npt.NDArray[np.uint8]) -> str:
    """A PNG file of uint8 (height, width, 3) pixels as a `data:` address."""
    return f"data:image/png;base64,{base64.b64encode(png_bytes(pixels)).decode()}"


def jpeg_uri(pixels: npt.NDArray[np.uint8]) -> str:
    """A JPEG file, small rather than exact, as a `data:` address: for pages with many pictures."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=THUMBNAIL_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
