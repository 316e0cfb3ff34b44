"""A picture of what the network sees: samples as stored, and the same samples as they come out of the loader."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from augment.loader import Loader
from augment.settings import LoaderSettings
from ingest.dataset import Dataset

GAP = 4
Pixels = npt.NDArray[np.uint8]


def training_sheet(dataset: str, settings: LoaderSettings, epochs: int = 5, samples: int = 8) -> Pixels:
    """uint8 (height, width, 3): one row a sample; first as stored, then its crop in each of the first epochs, with
    mean and division undone, so that crop, flip and colour shift can be seen."""
    opened = Dataset.open(dataset)
    shown = settings.model_copy(
        update={"order": "fixed", "tail": "short", "global_batch": samples, "mean": "none", "output": "float32"}
    )
    stored = shown.model_copy(update={"crop": opened.side, "flip": False, "output": "uint8"})
    columns = [_first_batch(opened, stored, 0)]
    columns += [_first_batch(opened, shown, epoch) * settings.divide for epoch in range(epochs)]
    tile = opened.side + GAP
    sheet = np.full((samples * tile + GAP, len(columns) * tile + GAP, 3), 255, np.uint8)
    for column, images in enumerate(columns):
        for row, pixels in enumerate(_viewable(images)):
            top, left = GAP + row * tile, GAP + column * tile
            sheet[top : top + len(pixels), left : left + len(pixels)] = pixels
    return sheet


def write_png(dataset: str, path: Path | str, settings: LoaderSettings | None = None) -> None:
    """The sheet as a PNG file."""
    from PIL import Image

    Image.fromarray(training_sheet(dataset, settings or LoaderSettings())).save(path, "PNG")


def _first_batch(dataset: Dataset, settings: LoaderSettings, epoch: int) -> torch.Tensor:
    with Loader(dataset, settings) as loader:
        loader.set_epoch(epoch)
        images: torch.Tensor = next(iter(loader)).images
        return images


def _viewable(images: torch.Tensor) -> Pixels:
    """uint8 (n, height, width, 3)."""
    pixels: Pixels = images.permute(0, 2, 3, 1).float().round().clamp(0, 255).to(torch.uint8).numpy()
    return pixels
