"""Pictures that the service hands out: of a training's run folder, of a dataset. PNG bytes, or None while there is none.

A dataset's pictures never change, so the latest ones are kept in memory. The augmentation sheet needs the loader, and
with it decoders and threads: a process of its own draws it, one at a time.
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cluster.api.turns import Turns
from cluster.jobs import Job
from ingest import look, look_gallery
from ingest.dataset import Dataset
from ingest.errors import TenchError
from ingest.png import png_bytes
from ingest.storage import Place

DatasetPicture = Literal["contact.png", "mean.png", "pca.png", "augmentation.png"]
KEPT = 64
SHEET_SIZE = ("--samples", "4", "--epochs", "5", "--tile", "192")
SHEET_S = 120
_drawing, _drawing_sheet = (Turns("pictures are being drawn") for _ in range(2))
"""Held while a dataset's picture is drawn; the sheet takes long, and the others do not wait for it."""
_drawn: dict[tuple[str, str, DatasetPicture], bytes] = {}
_decoding = Turns("pictures are being drawn")
"""Held while a broken picture is decoded: the library's switch for it counts for the whole process."""


def of_job(job: Job, run: Place, name: str) -> bytes | None:
    """A picture of a job by its name; None if this kind of job has none of it, or not yet."""
    from trainer import figures

    if job.kind == "train" and name in ("kernels.png", "curves.png"):
        return figures.kernels_png(run.uri) if name == "kernels.png" else figures.curves_png(run.uri)
    if job.kind == "ingest" and name in ("mean.png", "sheet.png") and job.state == "succeeded":
        try:
            return of_dataset(job.settings["dataset"], "mean.png" if name == "mean.png" else "contact.png")
        except TenchError:
            return None  # it was removed or damaged since; its own page says so
    return None


def of_dataset(uri: str, name: DatasetPicture) -> bytes:
    """A picture of a dataset, drawn once. Raises what opening and reading it raise; Problem 503 if too many wait."""
    key = (uri, Dataset.open(uri).dataset_id, name)
    found = _drawn.get(key)
    if found is None:
        with _drawing_sheet if name == "augmentation.png" else _drawing:
            found = _drawn[key] = _drawn.get(key) or _draw(uri, name)
            for oldest in list(_drawn)[:-KEPT]:
                _drawn.pop(oldest, None)
    return found


def _draw(uri: str, name: DatasetPicture) -> bytes:
    match name:
        case "contact.png":
            return png_bytes(look.contact_sheet(uri))
        case "mean.png":
            return png_bytes(np.rint(Dataset.open(uri).mean).astype(np.uint8))
        case "pca.png":
            return png_bytes(look.pca_swatches(uri))
        case "augmentation.png":
            return _augmentation_sheet(uri)


def _augmentation_sheet(uri: str) -> bytes:
    """What the default loader makes of the first pictures. Raises TenchError with the last words of the process."""
    with tempfile.TemporaryDirectory(prefix="tench-sheet-") as folder:
        sheet = Path(folder, "sheet.png")
        command = [sys.executable, "-m", "cluster.cli", "augment-sheet", uri, str(sheet), *SHEET_SIZE]
        try:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SHEET_S)
        except subprocess.TimeoutExpired:
            raise TenchError(f"{uri}: its augmentation sheet was not drawn within {SHEET_S} s") from None
        if done.returncode or not sheet.exists():
            words = done.stderr.strip().splitlines() or [f"exit {done.returncode}"]
            raise TenchError(f"{uri}: its augmentation sheet cannot be drawn: {words[-1]}")
        return sheet.read_bytes()


def quarantine_of(uri: str, first: int, most: int) -> dict[str, Any]:
    """{pictures, total}: the verdicts from number `first` on, each with whether it has a picture.

    Raises what opening the dataset raises, and DamageError if what lies in quarantine was changed.
    """
    dataset = Dataset.open(uri)
    rows = dataset.manifest.quarantine
    verdicts = [look_gallery.verdict_of(dataset, q.split, q.row) for q in rows[first : first + most]]
    pictures = [
        {
            "split": v.split, "row": v.row, "key": v.key, "code": v.code, "message": v.message, "size": v.size,
            "picture": look_gallery.may_be_decoded(v),
        }
        for v in verdicts
    ]  # fmt: skip
    return {"pictures": pictures, "total": len(rows)}


def quarantined_picture(uri: str, split: str, row: int) -> bytes | None:
    """What can be decoded of a picture in quarantine; None if there is no such picture, or nothing can be."""
    dataset = Dataset.open(uri)
    if not any((q.split, q.row) == (split, row) for q in dataset.manifest.quarantine):
        return None
    with _decoding:
        pixels = look_gallery.thumbnail_of(dataset, look_gallery.verdict_of(dataset, split, row))
    return None if pixels is None else png_bytes(pixels)
