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

POOLED_TOGETHER = 4
"""Pictures that a pool's way back takes at a time on a CPU: of fewer, the calls cost more than the cache spares."""


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


class FullLinear(nn.Linear):
    """nn.Linear for large weights. On a CPU the weights' gradient is added to `.grad` where that lies, in float32 also
    under autocast: a second matrix of that size, made, cast and added at every step, takes longer than the products."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.device.type != "cpu" or not torch.is_grad_enabled():
            return super().forward(x)
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else self.weight.dtype
        out: torch.Tensor = _Full.apply(x, self.weight, self.bias, dtype)  # type: ignore[no-untyped-call]
        return out


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


class _Full(torch.autograd.Function):
    """x @ weight.T + bias in a dtype; gradients of weight and bias in theirs."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: nn.Parameter, bias: nn.Parameter, dtype: torch.dtype
    ) -> torch.Tensor:
        ctx.given, ctx.weight = x.dtype, weight
        x, cast = x.to(dtype), weight.to(dtype)
        ctx.save_for_backward(x, cast)
        return F.linear(x, cast, bias.to(dtype))

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (grad,), (x, cast), weight = grads, ctx.saved_tensors, ctx.weight
        of_x, of_weight, of_bias, _ = ctx.needs_input_grad
        return (
            (grad @ cast).to(ctx.given) if of_x else None,
            _weight_gradient(weight, grad.to(weight.dtype), x.to(weight.dtype)) if of_weight else None,
            grad.sum(0, dtype=weight.dtype) if of_bias else None,
            None,
        )


def _weight_gradient(weight: nn.Parameter, grad: torch.Tensor, x: torch.Tensor) -> torch.Tensor | None:
    """The gradient, or None once it is in `weight.grad`; autograd calls the hooks that wait for it all the same."""
    if weight.grad is None:
        return grad.t() @ x
    weight.grad.addmm_(grad.t(), x)
    return None


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
        x, out = ctx.saved_tensors
        spread = torch.zeros_like(x)
        grad = grads[0].contiguous(memory_format=torch.channels_last)
        parts = [split(tensor, POOLED_TOGETHER) for tensor in (x, out, grad, spread)]
        room = torch.empty_like(parts[1][0])
        for values, largest, own, into in zip(*parts, strict=True):
            for dy in range(ctx.size):
                for dx in range(ctx.size):
                    seen, receiving = (
                        t[:, :, dy::2, dx::2][:, :, : out.shape[2], : out.shape[3]] for t in (values, into)
                    )
                    n, _, height, width = seen.shape
                    equal = torch.eq(seen, largest[:, :, :height, :width], out=room[:n, :, :height, :width])
                    receiving.addcmul_(own[:, :, :height, :width], equal)
        return spread, None, None


def split(x: torch.Tensor, together: int = 1) -> tuple[torch.Tensor, ...]:
    """A batch in parts of so many pictures on a CPU, where they stay in the cache through many passes over them; whole
    on a GPU, where one large operation beats many small ones."""
    return torch.split(x, together if x.device.type == "cpu" else len(x))
