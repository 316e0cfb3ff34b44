"""Picture files to square RGB arrays, and these to payloads. The only place that opens pictures of strangers.

The fence: JPEG and PNG only, a limit on pixels before anything is decoded, truncated files refused, and fixed
codes for the reasons. EXIF orientation is not applied unless told: no AlexNet of 2012 was trained with it applied.
"""

import gzip
import hashlib
import importlib.metadata
import io
import re
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import PIL
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError, features

from ingest.errors import TenchError
from ingest.settings import PlannedSettings

FORMATS = ("JPEG", "PNG")
"""The library opens a multi-picture JPEG (MPO) as the JPEG that it begins with."""
BEGINNINGS = re.compile(rb"(?P<ours>\xff\xd8\xff|\x89PNG)|BM|GIF8|II\*\0|MM\0\*|RIFF....WEBP", re.DOTALL)
"""How a file of ours begins, and how BMP, GIF, TIFF and WebP do."""
MAX_PIXELS = 100_000_000
MAX_GZIP_BYTES = 100_000_000
FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
Code = Literal[
    "empty", "not a picture", "format not allowed", "truncated", "corrupt", "too large",
    "decoder crashed", "decoder timed out", "decoder out of memory",
]  # fmt: skip
BINDING: tuple[Code, ...] = ("decoder crashed", "decoder timed out", "decoder out of memory")
"""Reasons that depend on the machine and the moment: such a verdict, once put, holds for every attempt."""
Pixels = npt.NDArray[np.uint8]

Image.MAX_IMAGE_PIXELS = MAX_PIXELS
ImageFile.LOAD_TRUNCATED_IMAGES = False
# What it warns of (sizes, odd EXIF) is refused or allowed here by our own rules. Set once: not safe among threads.
warnings.filterwarnings("ignore", module=r"PIL\.")


class PictureError(TenchError):
    """A picture that cannot be decoded: a fixed code for programs, a message for people."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.code, self.message)


TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
"""What each value of EXIF orientation asks for."""
SWAPS_SIDES = (TURNS[5], TURNS[6], TURNS[7], TURNS[8])


@dataclass(frozen=True, slots=True)
class Picture:
    """A rescaled picture, RGB, side x side, and the width and height that it had."""

    image: Image.Image
    width: int
    height: int

    @property
    def pixels(self) -> Pixels:
        """uint8 (side, side, 3) RGB."""
        return np.asarray(self.image)

    @property
    def planes(self) -> Pixels:
        """uint8 (3, side * side): the red, the green and the blue values, taken apart by the imaging library."""
        return np.frombuffer(b"".join(self.image.tobytes("raw", c) for c in "RGB"), np.uint8).reshape(3, -1)


def rescale(data: bytes, settings: PlannedSettings) -> Picture:
    """Decode; scale the shorter side to `side` (halves rounded up); cut out the centre (start rounded down).

    Raises PictureError.
    """
    with _reasons():
        with _open(_unzipped(data)) as opened:
            turn = _turn(opened) if settings.orientation == "obey" else None
            width, height = opened.size if turn not in SWAPS_SIDES else opened.size[::-1]
            scaled = _scaled_size(width, height, settings.side)
            if settings.draft:
                opened.draft(None, scaled if turn not in SWAPS_SIDES else scaled[::-1])
            opened.load()
            image = _to_rgb(opened)
        if turn is not None:
            image = image.transpose(turn)
        return Picture(_cut(image, scaled, settings), width, height)


def _cut(image: Image.Image, scaled: tuple[int, int], settings: PlannedSettings) -> Image.Image:
    """The centre square of an image that is scaled to a size.

    Only what is kept is computed: the square is cut out in the image's own coordinates, which gives what scaling the
    whole image and then cutting gives, up to rounding (0.1 % of the values differ, by 1, seldom by 2).
    """
    side = settings.side
    left, top = (scaled[0] - side) // 2, (scaled[1] - side) // 2
    if image.size == scaled:
        return image.crop((left, top, left + side, top + side))
    (width, height), (new_width, new_height) = image.size, scaled
    box = (
        left * width / new_width, top * height / new_height,
        (left + side) * width / new_width, (top + side) * height / new_height,
    )  # fmt: skip
    return image.resize((side, side), FILTERS[settings.filter], box=box)


def encode(image: Image.Image, settings: PlannedSettings) -> bytes:
    """The payload of an RGB image: a JPEG, or the pixels' bytes in row order."""
    if settings.payload == "raw":
        return image.tobytes()
    file = io.BytesIO()
    image.save(file, "JPEG", quality=settings.quality, subsampling=settings.subsampling)
    return file.getvalue()


def decode_payload(payload: bytes, payload_kind: str, side: int) -> Pixels:
    """uint8 (side, side, 3) pixels of a stored jpeg or raw payload, for pages and sheets."""
    if payload_kind == "raw":
        return np.frombuffer(payload, np.uint8).reshape(side, side, 3)
    with Image.open(io.BytesIO(payload), formats=("JPEG",)) as image:
        return np.asarray(image.convert("RGB"))


@cache
def pixel_fingerprint() -> str:
    """SHA-256 over converted probe pictures: equal where this library gives the same pixels and JPEG bytes."""
    digest = hashlib.sha256()
    for probe in _probes():
        for name in FILTERS:
            settings = PlannedSettings.model_validate({"filter": name})
            image = rescale(probe, settings).image
            digest.update(image.tobytes())
            digest.update(encode(image, settings))
    return digest.hexdigest()


@cache
def imaging_library() -> dict[str, Any]:
    """Name and version of the library that is active, whether it is the fast one, and its JPEG library."""
    fast = any(d.metadata["Name"] == "pillow-simd" for d in importlib.metadata.distributions())
    return {
        "name": "pillow-simd" if fast else "pillow",
        "version": PIL.__version__,
        "simd": fast,
        "libjpeg_turbo": features.version("libjpeg_turbo"),
    }


def _probes() -> Iterator[bytes]:
    """A large JPEG, a small one that has to grow, and a PNG; the same on every machine."""
    for (height, width), kind in (((331, 500), "JPEG"), ((97, 71), "JPEG"), ((520, 301), "PNG")):
        rows, columns = np.mgrid[0:height, 0:width].astype(np.int64)
        planes = [rows * 3 + columns * 5, (rows * columns) // 7, (rows * rows + columns * 11) // 5]
        file = io.BytesIO()
        Image.fromarray(np.stack(planes, axis=-1).astype(np.uint8)).save(file, kind)
        yield file.getvalue()


def _scaled_size(width: int, height: int, side: int) -> tuple[int, int]:
    short, long = min(width, height), max(width, height)
    if width * height > MAX_PIXELS or short == 0:
        raise PictureError("too large", f"{width} x {height} pixels; at most {MAX_PIXELS:,} are decoded")
    scaled = (2 * long * side + short) // (2 * short)
    if scaled * side > MAX_PIXELS:
        raise PictureError("too large", f"{width} x {height} pixels would become {side} x {scaled} before the cut")
    return (side, scaled) if width <= height else (scaled, side)


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What EXIF asks for; None without EXIF, or with one that cannot be read or names no such value."""
    try:
        return TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except (SyntaxError, ValueError, TypeError, KeyError, struct.error, OSError):
        return None


def _to_rgb(image: Image.Image) -> Image.Image:
    """RGB of any mode. 16-bit grey keeps its upper byte (a plain convert would clip it to white)."""
    if image.mode.startswith("I"):
        grey = (np.asarray(image).astype(np.int64) >> 8).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image if image.mode == "RGB" else image.convert("RGB")


def _unzipped(data: bytes) -> bytes:
    """ILSVRC-2010 holds one picture that is gzip-compressed (n02487347_1956)."""
    if not data:
        raise PictureError("empty", "the file is empty")
    if not data.startswith(b"\x1f\x8b"):
        return data
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
        plain = file.read(MAX_GZIP_BYTES + 1)
    if len(plain) > MAX_GZIP_BYTES:
        raise PictureError("too large", f"more than {MAX_GZIP_BYTES:,} bytes after decompression")
    return plain


def _open(data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        begins = BEGINNINGS.match(data)
        if begins is None:
            raise PictureError("not a picture", "neither a JPEG nor a PNG file") from error
        if begins["ours"]:
            raise PictureError("corrupt", "begins as a JPEG or PNG file, but its header cannot be read") from error
        raise PictureError("format not allowed", "a picture, but neither a JPEG nor a PNG file") from error


@contextmanager
def _reasons() -> Iterator[None]:
    """Turn what the imaging library raises into our fixed codes."""
    try:
        yield
    except PictureError:
        raise
    except Image.DecompressionBombError as error:
        number = re.search(r"\d+", str(error))
        many = f"{int(number[0]):,}" if number else "too many"
        raise PictureError("too large", f"{many} pixels; at most {MAX_PIXELS:,} are decoded") from error
    except (
        OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, OverflowError, zlib.error, struct.error
    ) as error:  # fmt: skip
        code: Code = "truncated" if "truncated" in str(error) or isinstance(error, EOFError) else "corrupt"
        raise PictureError(code, str(error) or type(error).__name__) from error


CODES: tuple[str, ...] = get_args(Code)
