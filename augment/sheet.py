"""A picture of what the network sees: samples as stored, and the same samples as they come out of the loader."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from augment.loader import Loader
from augment.settings import LoaderSettings
from ingest.dataset import Dataset
from ingest.png import png_bytes

GAP = 4


def training_sheet(dataset: str, settings: LoaderSettings, epochs: int = 5, samples: int = 8) -> npt.NDArray[np.uint8]:
    """uint8 (height, width, 3): one row a sample; first as stored, then its crop in each of the first epochs, with
    mean and division undone, so that crop, flip and colour shift can be seen."""
    opened = Dataset.open(dataset)
    shown = settings.model_copy(
        update={"order": "fixed", "global_batch": samples, "mean": "none", "output": "float32", "threads": 1}
    )
    tile = opened.side
    sheet = np.full((samples * (tile + GAP) + GAP, (epochs + 1) * (tile + GAP) + GAP, 3), 255, np.uint8)
    with Loader(opened, shown) as loader:
        for epoch in range(epochs):
            loader.set_epoch(epoch)
            batch = next(iter(loader))
            for row, image in enumerate(_viewable(batch.images * settings.divide)):
                _place(sheet, row, epoch + 1, image, tile)
    split = opened.split("train")
    for row in range(min(samples, split.num_samples)):
        _place(sheet, row, 0, split.pixels(row), tile)
    return sheet


def write_png(dataset: str, path: Path, settings: LoaderSettings | None = None) -> None:
    """The sheet as a PNG file."""
    path.write_bytes(png_bytes(training_sheet(dataset, settings or LoaderSettings())))


def _viewable(images: torch.Tensor) -> npt.NDArray[np.uint8]:
    pixels: npt.NDArray[np.uint8] = images.permute(0, 2, 3, 1).round().clamp(0, 255).to(torch.uint8).numpy()
    return pixels


def _place(sheet: npt.NDArray[np.uint8], row: int, column: int, image: npt.NDArray[np.uint8], tile: int) -> None:
    top, left = GAP + row * (tile + GAP), GAP + column * (tile + GAP)
    sheet[top : top + image.shape[0], left : left + image.shape[1]] = image
