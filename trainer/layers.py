"""The parts of the networks that torch does not have as 2012 had them: pools whose ties share, layers in columns."""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": torch.relu, "tanh": torch.tanh, "sigmoid": torch.sigmoid
}  # fmt: skip


def pooled_side(side: int, size: int, rounding: str, step: int = 2) -> int:
    """Side of a map after a pool, or a convolution, of `size` that moves by `step`."""
    last = (side - size) / step
    return 1 + (math.ceil(last) if rounding == "ceil" else math.floor(last))


def scaled(images: torch.Tensor, scale: tuple[float, float, float] | None) -> torch.Tensor:
    """Pictures with red, green and blue divided by the three numbers; None leaves them as they are."""
    return images if scale is None else images / torch.tensor(scale, device=images.device).view(1, 3, 1, 1)


def max_pool(x: torch.Tensor, size: int, rounding: str, ties: str) -> torch.Tensor:
    """Largest values of (n, channels, height, width) in windows of size x size at every second place, those inside the
    map only. `ties` all: each value equal to the maximum gets the whole gradient, as in 2012; first: one of them does."""
    if ties == "first" or not torch.is_grad_enabled():
        return F.max_pool2d(x, size, 2, ceil_mode=rounding == "ceil")
    out: torch.Tensor = _SharedMax.apply(x, size, rounding == "ceil")  # type: ignore[no-untyped-call]
    return out


def average_pool(x: torch.Tensor) -> torch.Tensor:
    """Means over windows of 3 x 3 at every second place, of the values inside the map (cuda-convnet)."""
    return F.avg_pool2d(x, 3, 2, ceil_mode=True, count_include_pad=False)


class ColumnLinear(nn.Module):
    """A fully connected layer in columns that do not see each other: (n, inputs) -> (n, outputs).

    `weight` is (outputs, inputs / columns): the first outputs / columns units read the first inputs / columns values.
    """

    def __init__(self, num_inputs: int, num_outputs: int, columns: int) -> None:
        super().__init__()
        self.columns = columns
        self.weight = nn.Parameter(torch.empty(num_outputs, num_inputs // columns))
        self.bias = nn.Parameter(torch.empty(num_outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = zip(
            x.chunk(self.columns, 1), self.weight.chunk(self.columns), self.bias.chunk(self.columns), strict=True
        )
        return torch.cat([F.linear(*part) for part in parts], 1)


class _SharedMax(torch.autograd.Function):
    """The max-pool of 2012: its gradient goes to every place that equals the maximum (cuda-convnet's max-undo)."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, size: int, ceil: bool) -> torch.Tensor:
        out = F.max_pool2d(x, size, 2, ceil_mode=ceil)
        ctx.save_for_backward(x, out)
        ctx.size = size
        return out

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (grad,) = grads
        x, out = ctx.saved_tensors
        spread = torch.zeros_like(x)
        for dy in range(ctx.size):
            for dx in range(ctx.size):
                seen = x[:, :, dy::2, dx::2][:, :, : out.shape[2], : out.shape[3]]
                height, width = seen.shape[2:]
                equal = seen == out[:, :, :height, :width]
                spread[:, :, dy::2, dx::2][:, :, :height, :width] += grad[:, :, :height, :width] * equal
        return spread, None, None
