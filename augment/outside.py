"""Pictures from outside a dataset to what the network gets: the views of an evaluation, by the loader's own finish."""

import numpy as np
import numpy.typing as npt
import torch

from augment.choices import view_choices
from augment.finish import Finish
from augment.settings import LoaderSettings
from augment.workers import Workers
from ingest.dataset import Dataset
from ingest.errors import UsageError


def views_of(
    pixels: npt.NDArray[np.uint8], dataset: Dataset, settings: LoaderSettings, views: int, device: torch.device
) -> torch.Tensor:
    """uint8 (n, side, side, 3) RGB -> (n, 3, s, s), or (n, 10, 3, s, s) for ten views; s = crop + border.

    What the loader would deliver if the pictures were samples of the dataset, evaluated. Raises UsageError if they
    have another size, or the crop does not fit.
    """
    side = dataset.side
    if pixels.shape[1:] != (side, side, 3):
        raise UsageError(
            f"pictures of shape {pixels.shape[1:]}: expected ({side}, {side}, 3), as those of {dataset.uri}"
        )
    if settings.crop > side:
        raise UsageError(f"crop: {settings.crop} pixels, but the pictures of {dataset.uri} have {side}")
    choices = view_choices(settings, side, views, len(pixels))
    finish = Finish(dataset.mean, settings, device, centred=False)
    stored = torch.from_numpy(np.array(pixels, order="C"))
    images = finish.images(stored.__getitem__, len(pixels), choices, Workers(1))
    return images if views == 1 else images.view(len(pixels), views, *images.shape[1:])
