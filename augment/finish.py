"""Decoded pictures to what the network gets: crop, flip, mean, colour, division, border, cast.

On the CPU every sample is finished by itself, which stays in the cache, with rows seen as vectors of 3 * crop values:
plain (crop, crop, 3) arithmetic would run over an inner dimension of three and take twice the time. To a GPU bare
crops travel, a quarter of the bytes, and the batch is finished there with the same roundings.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from augment.buffers import Buffers
from augment.choices import Choices
from augment.settings import LoaderSettings
from augment.workers import Workers
from ingest.centring import SCALE

Picture = Callable[[int], torch.Tensor]
"""A picture of the batch by its number, (side, side, 3): uint8, or int16 where the mean is subtracted already."""
KEPT_BUFFERS = 8
PUBLISHED_MEAN = (123.675, 116.28, 103.53)
"""torchvision's means of red, green and blue, 0.485, 0.456 and 0.406, in pixel units."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "uint8": torch.uint8}


class Finish:
    """How pictures of a dataset are finished. `mean` is float64 (side, side, 3) in pixel units; `centred`: pictures
    are int16, 128 x (pixel - mean)."""

    def __init__(
        self,
        mean: npt.NDArray[np.float64],
        settings: LoaderSettings,
        device: torch.device,
        centred: bool,
    ) -> None:
        self.crop, self.side, self.dtype = settings.crop, settings.crop + settings.border, DTYPES[settings.output]
        self.device, self.centred = device, centred
        self._aligned = settings.mean == "aligned"
        image = torch.from_numpy(mean_image(mean, settings.mean, settings.crop))
        self._mean = image.to(device)  # (side, side, 3) if aligned, else (crop, crop, 3)
        self._mirrored_mean = image.flip(1)
        self.buffers = Buffers(KEPT_BUFFERS)

    def images(self, picture: Picture, num_pictures: int, choices: Choices, workers: Workers) -> torch.Tensor:
        """(n, 3, crop + border, crop + border) with channels last, in the output dtype, on the device.

        n choices, the same number for each picture: first all of picture 0, then all of picture 1.
        """
        if self.device.type == "cpu" and self.dtype != torch.uint8:
            done = self._floats(picture, num_pictures, choices, workers)
        else:
            done = self._crops(picture, num_pictures, choices, workers)
        if self.device.type != "cpu":
            done = self._on_device(done, choices)
        return done.permute(0, 3, 1, 2)

    def _crops(self, picture: Picture, num_pictures: int, choices: Choices, workers: Workers) -> torch.Tensor:
        """(n, crop, crop, 3) in the pictures' own type; in pinned memory if it is to travel."""
        places = _places(choices)
        views = len(places) // max(num_pictures, 1)
        out = self._empty_crops(len(places))

        def some(start: int, stop: int) -> None:
            for p in range(start, stop):
                pixels = picture(p)
                for i in range(p * views, (p + 1) * views):
                    y, x, mirror = places[i]
                    cut = pixels[y : y + self.crop, x : x + self.crop]
                    out[i].copy_(cut.flip(1) if mirror else cut)

        workers.each(some, num_pictures)
        return out

    def _empty_crops(self, count: int) -> torch.Tensor:
        shape, dtype = (count, self.crop, self.crop, 3), torch.int16 if self.centred else torch.uint8
        if self.device.type == "cuda":
            return torch.empty(shape, dtype=dtype, pin_memory=True)  # torch itself keeps pinned memory for later
        return self.buffers.empty(shape, dtype)

    def _floats(self, picture: Picture, num_pictures: int, choices: Choices, workers: Workers) -> torch.Tensor:
        """float32 or bfloat16 (n, crop + border, crop + border, 3)."""
        places = _places(choices)
        views, row = len(places) // max(num_pictures, 1), 3 * self.crop
        out = self.buffers.empty((len(places), self.side, 3 * self.side), self.dtype)
        offsets = torch.from_numpy(choices.offset).repeat(1, self.crop)
        coloured: list[bool] = np.any(choices.offset, axis=1).tolist()
        divide: list[float] = choices.divide.tolist()

        def some(start: int, stop: int) -> None:
            scratch = torch.empty((self.crop, row)) if self.dtype != torch.float32 else None
            for p in range(start, stop):
                pixels = picture(p)
                for i in range(p * views, (p + 1) * views):
                    target = out[i, : self.crop, :row]
                    values = target if scratch is None else scratch
                    self._centre(pixels, places[i], values)
                    if coloured[i]:
                        values.add_(offsets[i])
                    if divide[i] != 1.0:
                        values.div_(divide[i])
                    if scratch is not None:
                        target.copy_(values)
                    out[i, self.crop :].zero_()
                    out[i, : self.crop, row:].zero_()

        workers.each(some, num_pictures)
        return out.view(len(places), self.side, self.side, 3)

    def _centre(self, pixels: torch.Tensor, place: tuple[int, int, bool], values: torch.Tensor) -> None:
        """Crop, flip and subtract the mean, into float32 (crop, 3 * crop)."""
        values.copy_(self._rows(pixels, *place))
        if self.centred:
            values.mul_(1 / SCALE)  # A power of two: exact.
        else:
            values.sub_(self._mean_rows(*place))

    def _rows(self, image: torch.Tensor, y: int, x: int, mirror: bool) -> torch.Tensor:
        """(crop, 3 * crop): a crop whose rows are vectors."""
        if mirror:
            return image[y : y + self.crop, x : x + self.crop].flip(1).view(self.crop, -1)
        return image.view(len(image), -1)[y : y + self.crop, 3 * x : 3 * (x + self.crop)]

    def _mean_rows(self, y: int, x: int, mirror: bool) -> torch.Tensor:
        """float32 (crop, 3 * crop): the mean under the crop, as mirrored as the picture (aligned only)."""
        if not self._aligned:
            return self._mean.view(self.crop, -1)
        if mirror:
            return self._rows(self._mirrored_mean, y, self._mean.shape[1] - self.crop - x, False)
        return self._rows(self._mean, y, x, False)

    def _on_device(self, crops: torch.Tensor, choices: Choices) -> torch.Tensor:
        """(n, crop + border, crop + border, 3) in the output dtype on the device, from crops on the CPU."""
        crops = crops.to(self.device, non_blocking=True)
        if self.dtype == torch.uint8:
            return crops
        offset = torch.from_numpy(choices.offset).to(self.device)[:, None, None, :]
        centred = crops.float() / SCALE if self.centred else crops.float() - self._means_on_device(choices)
        values = centred + offset
        if (choices.divide != 1.0).any():
            # By a tensor: a division by a number would be a multiplication by its reciprocal on CUDA.
            values = values / torch.from_numpy(choices.divide).to(self.device)[:, None, None, None]
        border = self.side - self.crop
        return torch.nn.functional.pad(values, (0, 0, 0, border, 0, border)).to(self.dtype)

    def _means_on_device(self, choices: Choices) -> torch.Tensor:
        """float32 (n, crop, crop, 3), or (crop, crop, 3) if all are the same."""
        if not self._aligned:
            return self._mean
        span = np.arange(self.crop)
        columns = choices.x[:, None] + span
        columns[choices.mirror] = columns[choices.mirror, ::-1]
        rows = torch.from_numpy(choices.y[:, None] + span).to(self.device)
        return self._mean[rows[:, :, None], torch.from_numpy(columns).to(self.device)[:, None, :]]


def _places(choices: Choices) -> list[tuple[int, int, bool]]:
    """Upper left corner and flip of each choice, as plain numbers."""
    return list(zip(choices.y.tolist(), choices.x.tolist(), choices.mirror.tolist(), strict=True))


def mean_image(mean: npt.NDArray[np.float64], kind: str, crop: int) -> npt.NDArray[np.float32]:
    """float32 mean: the whole image (aligned), else (crop, crop, 3)."""
    rounded = mean.astype(np.float32)
    if kind == "aligned":
        return rounded
    if kind == "centre":
        start = (len(mean) - crop) // 2
        return np.ascontiguousarray(rounded[start : start + crop, start : start + crop])
    values = {"channel": mean.reshape(-1, 3).mean(axis=0), "published": PUBLISHED_MEAN, "none": np.zeros(3)}
    return np.broadcast_to(np.asarray(values[kind], np.float32), (crop, crop, 3)).copy()
