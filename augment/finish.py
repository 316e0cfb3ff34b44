"""Decoded pictures to what the network gets: crop, flip, mean, colour, division, cast.

Per sample, rows are seen as vectors of 3 * crop values: plain (crop, crop, 3) arithmetic would run over an inner
dimension of three and take twice the time. On a GPU the whole batch is one expression with the same roundings.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import torch

from augment.choices import Choices

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "uint8": torch.uint8}


class Finish:
    """How pictures of a dataset are finished. `mean` is float64 (side, side, 3) in pixel units."""

    def __init__(
        self,
        mean: npt.NDArray[np.float64],
        mean_kind: str,
        crop: int,
        *,
        divide: float,
        output: str,
        device: torch.device,
        threads: int = 1,
    ) -> None:
        self.mean_kind, self.crop, self.output, self.device = mean_kind, crop, output, device
        self.divide = np.float32(divide).item()
        image = torch.from_numpy(_mean_image(mean, mean_kind, crop)).contiguous()
        self._mean, self._mirrored_mean = image, image.flip(1).contiguous()
        self._pool = ThreadPoolExecutor(threads, "finish") if threads > 2 else None

    def crops(self, pictures: list[torch.Tensor] | torch.Tensor, choices: Choices) -> torch.Tensor:
        """uint8 (n, crop, crop, 3): crops of uint8 (side, side, 3) pictures, mirrored where chosen."""
        out = torch.empty(len(choices.y), self.crop, self.crop, 3, dtype=torch.uint8)

        def one(i: int) -> None:
            y, x = int(choices.y[i]), int(choices.x[i])
            cut = pictures[i][y : y + self.crop, x : x + self.crop]
            out[i] = cut.flip(1) if choices.mirror[i] else cut

        self._each(one, len(choices.y))
        return out

    def images(self, crops: torch.Tensor, choices: Choices) -> torch.Tensor:
        """(n, 3, crop, crop), channels last, in the output dtype, on the device; from uint8 (n, crop, crop, 3)."""
        if self.device.type == "cpu":
            finished = crops if self.output == "uint8" else self._floats(crops, choices)
        else:
            crops = crops.pin_memory().to(self.device, non_blocking=True)
            finished = crops if self.output == "uint8" else self._floats_at_once(crops, choices)
        return finished.to(DTYPES[self.output]).permute(0, 3, 1, 2)

    def _floats(self, crops: torch.Tensor, choices: Choices) -> torch.Tensor:
        n, row = len(crops), 3 * self.crop
        out = torch.empty(n, self.crop, row)
        rows = crops.view(n, self.crop, row)
        offsets = torch.from_numpy(choices.offset).repeat(1, self.crop)
        coloured = (choices.offset != 0).any(axis=1).tolist()

        def one(i: int) -> None:
            torch.sub(rows[i], self._mean_rows(choices, i), out=out[i])
            if coloured[i]:
                out[i].add_(offsets[i])
            if self.divide != 1.0:
                out[i].div_(self.divide)

        self._each(one, n)
        return out.view(n, self.crop, self.crop, 3)

    def _mean_rows(self, choices: Choices, i: int) -> torch.Tensor:
        """float32 (crop, 3 * crop): the mean under the crop, as mirrored as the picture (aligned only)."""
        if self.mean_kind != "aligned":
            return self._mean.view(self.crop, -1)
        y, x = int(choices.y[i]), int(choices.x[i])
        image = self._mirrored_mean if choices.mirror[i] else self._mean
        left = len(image) - self.crop - x if choices.mirror[i] else x
        return image.view(len(image), -1)[y : y + self.crop, 3 * left : 3 * (left + self.crop)]

    def _floats_at_once(self, crops: torch.Tensor, choices: Choices) -> torch.Tensor:
        device = crops.device
        mean = self._mean.to(device)
        if self.mean_kind == "aligned":
            span = torch.arange(self.crop, device=device)
            rows = torch.from_numpy(choices.y).to(device)[:, None] + span
            columns = torch.from_numpy(choices.x).to(device)[:, None] + span
            mirror = torch.from_numpy(choices.mirror).to(device)[:, None]
            columns = torch.where(mirror, columns.flip(1), columns)
            mean = mean[rows[:, :, None], columns[:, None, :]]
        offset = torch.from_numpy(choices.offset).to(device)[:, None, None, :]
        values = (crops.float() - mean) + offset
        return values.div_(self.divide) if self.divide != 1.0 else values

    def _each(self, work: Callable[[int], None], count: int) -> None:
        if self._pool is None:
            for i in range(count):
                work(i)
        else:
            list(self._pool.map(work, range(count)))


def _mean_image(mean: npt.NDArray[np.float64], kind: str, crop: int) -> npt.NDArray[np.float32]:
    """float32 mean: the whole image (aligned), else (crop, crop, 3)."""
    rounded = mean.astype(np.float32)
    if kind == "aligned":
        return rounded
    if kind == "centre":
        start = (len(mean) - crop) // 2
        return rounded[start : start + crop, start : start + crop]
    value = mean.reshape(-1, 3).mean(axis=0) if kind == "channel" else np.zeros(3)
    return np.broadcast_to(value.astype(np.float32), (crop, crop, 3)).copy()
