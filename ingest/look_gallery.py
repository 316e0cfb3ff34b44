"""Pictures in quarantine, as far as they can be shown: thumbnails of what could be decoded of them.

These are the bytes of strangers that failed once: JPEG and PNG only, bounded in bytes and pixels, and only those
whose reason was a gap or a fault in their data. What ended or stalled its decoder is never decoded here.
"""

import io
import json
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile

from ingest.dataset import Dataset
from ingest.pixels import FORMATS
from ingest.quarantine import Verdict, verdict_path

MAX_SHOWN = 200
PARTLY_DECODABLE = ("truncated", "corrupt")
MAX_PIXELS = 20_000_000
MAX_BYTES = 20_000_000
SIDE = 320
"""Pixels of a thumbnail's longer side, at most."""


@dataclass(frozen=True)
class Shown:
    """A verdict, and uint8 (height, width, 3) of what could be decoded of its picture, if anything."""

    verdict: Verdict
    thumbnail: npt.NDArray[np.uint8] | None


def gallery(dataset: Dataset, splits: list[str]) -> tuple[list[Shown], int]:
    """The first verdicts of these splits with their thumbnails, and how many more there are.

    Raises DamageError if what lies in quarantine was changed.
    """
    rows = [(q.split, q.row) for q in dataset.manifest.quarantine if q.split in splits]
    verdicts = [verdict_of(dataset, *row) for row in rows[:MAX_SHOWN]]
    return [Shown(v, thumbnail_of(dataset, v)) for v in verdicts], max(0, len(rows) - MAX_SHOWN)


def verdict_of(dataset: Dataset, split: str, row: int) -> Verdict:
    """The verdict on a row of the plan. Raises DamageError if it was changed."""
    return Verdict(**json.loads(dataset.checked_bytes(f"{verdict_path(split, row)}.json")))


def may_be_decoded(verdict: Verdict) -> bool:
    """Whether a picture is shown as far as it can be decoded."""
    return verdict.code in PARTLY_DECODABLE and verdict.size <= MAX_BYTES


def thumbnail_of(dataset: Dataset, verdict: Verdict) -> npt.NDArray[np.uint8] | None:
    """`thumbnail` of the picture of a verdict, if it may be decoded. Raises DamageError if its bytes were changed."""
    if not may_be_decoded(verdict):
        return None
    return thumbnail(dataset.checked_bytes(f"{verdict_path(verdict.split, verdict.row)}.bin"))


def thumbnail(data: bytes) -> npt.NDArray[np.uint8] | None:
    """uint8 (height, width, 3) of what can be decoded of a broken JPEG or PNG file; None if nothing can."""
    try:
        with warnings.catch_warnings(), _truncated_allowed():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    return None
                image.draft("RGB", (SIDE, SIDE))
                image.thumbnail((SIDE, SIDE))
                return np.asarray(image.convert("RGB"))
    except (
        OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, OverflowError, zlib.error, struct.error,
        Image.DecompressionBombError,
    ):  # fmt: skip
        return None


@contextmanager
def _truncated_allowed() -> Iterator[None]:
    """Let the library stop at the end of the bytes. Its switch is global: it is off again at once."""
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = False
