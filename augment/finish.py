"""Decoded pictures to what the network gets: crop, flip, mean, colour, division, cast.

On the CPU every sample is finished by itself, which stays in the cache, with rows seen as vectors of 3 * crop values:
plain (crop, crop, 3) arithmetic would run over an inner dimension of three and take twice the time. On a GPU bare
crops travel, a quarter of the bytes, and the batch is finished there with the same roundings.
"""

import numpy as np
import numpy.typing as npt
import torch

from augment.buffers import Buffers
from augment.choices import Choices
from augment.workers import Workers

Pictures = torch.Tensor | list[torch.Tensor]
KEPT_BUFFERS = 8
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "uint8": torch.uint8}


class Finish:
    """How pictures of a dataset are finished. `mean` is float64 (side, side, 3) in pixel units."""

    def __init__(
        self,
        mean: npt.NDArray[np.float64],
        mean_kind: str,
        crop: int,
        divide: float,
        output: str,
        device: torch.device,
    ) -> None:
        self.crop, self.dtype, self.device = crop, DTYPES[output], device
        self._aligned = mean_kind == "aligned"
        self._divide = float(np.float32(divide))
        image = torch.from_numpy(_mean_image(mean, mean_kind, crop))
        self._mean = image.to(device)  # (side, side, 3) if aligned, else (crop, crop, 3)
        self._mirrored_mean = image.flip(1)
        self.buffers = Buffers(KEPT_BUFFERS)

    def images(
        self, pictures: Pictures, which: npt.NDArray[np.int64], choices: Choices, workers: Workers
    ) -> torch.Tensor:
        """(n, 3, crop, crop) with channels last, in the output dtype, on the device.

        Image i is made of uint8 (side, side, 3) picture `which[i]` by choice i.
        """
        if self.device.type == "cpu" and self.dtype != torch.uint8:
            done = self._floats(pictures, which, choices, workers)
        else:
            done = self._crops(pictures, which, choices, workers)
        if self.device.type != "cpu":
            done = self._on_device(done, choices)
        return done.permute(0, 3, 1, 2)

    def _crops(
        self, pictures: Pictures, which: npt.NDArray[np.int64], choices: Choices, workers: Workers
    ) -> torch.Tensor:
        """uint8 (n, crop, crop, 3); in pinned memory if it is to travel."""
        shape = (len(which), self.crop, self.crop, 3)
        if self.device.type == "cuda":
            out = torch.empty(shape, dtype=torch.uint8, pin_memory=True)  # torch itself keeps pinned memory for later
        else:
            out = self.buffers.empty(shape, torch.uint8)

        def some(start: int, stop: int) -> None:
            for i in range(start, stop):
                cut = self._cut(pictures[which[i]], int(choices.y[i]), int(choices.x[i]))
                out[i] = cut.flip(1) if choices.mirror[i] else cut

        workers.each(some, len(which))
        return out

    def _floats(
        self, pictures: Pictures, which: npt.NDArray[np.int64], choices: Choices, workers: Workers
    ) -> torch.Tensor:
        """float32 or bfloat16 (n, crop, crop, 3)."""
        row = 3 * self.crop
        out = self.buffers.empty((len(which), self.crop, row), self.dtype)
        offsets = torch.from_numpy(choices.offset).repeat(1, self.crop)
        coloured = [bool(offset.any()) for offset in choices.offset]

        def some(start: int, stop: int) -> None:
            scratch = torch.empty(self.crop, row)
            for i in range(start, stop):
                values = out[i] if self.dtype == torch.float32 else scratch
                y, x = int(choices.y[i]), int(choices.x[i])
                rows = self._rows(pictures[which[i]], y, x, choices.mirror[i])
                torch.sub(rows, self._mean_rows(choices, i), out=values)
                if coloured[i]:
                    values.add_(offsets[i])
                if self._divide != 1.0:
                    values.div_(self._divide)
                if values is scratch:
                    out[i].copy_(scratch)

        workers.each(some, len(which))
        return out.view(len(which), self.crop, self.crop, 3)

    def _cut(self, image: torch.Tensor, y: int, x: int) -> torch.Tensor:
        return image[y : y + self.crop, x : x + self.crop]

    def _rows(self, image: torch.Tensor, y: int, x: int, mirror: bool) -> torch.Tensor:
        """(crop, 3 * crop): a crop whose rows are vectors."""
        if mirror:
            return self._cut(image, y, x).flip(1).view(self.crop, -1)
        return image.view(len(image), -1)[y : y + self.crop, 3 * x : 3 * (x + self.crop)]

    def _mean_rows(self, choices: Choices, i: int) -> torch.Tensor:
        """float32 (crop, 3 * crop): the mean under the crop, as mirrored as the picture (aligned only)."""
        if not self._aligned:
            return self._mean.view(self.crop, -1)
        y, x = int(choices.y[i]), int(choices.x[i])
        if choices.mirror[i]:
            return self._rows(self._mirrored_mean, y, self._mean.shape[1] - self.crop - x, False)
        return self._rows(self._mean, y, x, False)

    def _on_device(self, crops: torch.Tensor, choices: Choices) -> torch.Tensor:
        """(n, crop, crop, 3) in the output dtype on the device, from uint8 crops on the CPU."""
        crops = crops.to(self.device, non_blocking=True)
        if self.dtype == torch.uint8:
            return crops
        offset = torch.from_numpy(choices.offset).to(self.device)[:, None, None, :]
        values = (crops.float() - self._means_on_device(choices)) + offset
        if self._divide != 1.0:
            # By a tensor: a division by a number would be a multiplication by its reciprocal on CUDA.
            values = values / torch.tensor(self._divide, device=self.device)
        return values.to(self.dtype)

    def _means_on_device(self, choices: Choices) -> torch.Tensor:
        """float32 (n, crop, crop, 3), or (crop, crop, 3) if all are the same."""
        if not self._aligned:
            return self._mean
        span = np.arange(self.crop)
        columns = choices.x[:, None] + span
        columns[choices.mirror] = columns[choices.mirror, ::-1]
        rows = torch.from_numpy(choices.y[:, None] + span).to(self.device)
        return self._mean[rows[:, :, None], torch.from_numpy(columns).to(self.device)[:, None, :]]


def _mean_image(mean: npt.NDArray[np.float64], kind: str, crop: int) -> npt.NDArray[np.float32]:
    """float32 mean: the whole image (aligned), else (crop, crop, 3)."""
    rounded = mean.astype(np.float32)
    if kind == "aligned":
        return rounded
    if kind == "centre":
        start = (len(mean) - crop) // 2
        return np.ascontiguousarray(rounded[start : start + crop, start : start + crop])
    value = mean.reshape(-1, 3).mean(axis=0) if kind == "channel" else np.zeros(3)
    return np.broadcast_to(value.astype(np.float32), (crop, crop, 3)).copy()
