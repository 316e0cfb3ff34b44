"""Local response normalisation (2012 paper, section 3.3) and the released network's spatial one.

Both are out = in / (k + factor * S) ** 0.75 with S a sum of squares over a window, so both are one autograd function
with two windows. Always in float32, whatever the precision around it.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

Window = Callable[[torch.Tensor], torch.Tensor]
SIZE = 5
SPATIAL_FACTOR = 0.001 / 25


def across_channels(x: torch.Tensor, k: float, factor: float, groups: int) -> torch.Tensor:
    """LRN over 5 neighbouring channels of (n, channels, height, width), cut off at the ends of each group."""
    return _normalise(x, lambda v: _channel_sum(v, groups), k, factor)


def within_maps(x: torch.Tensor) -> torch.Tensor:
    """Normalisation over 5 x 5 pixels of each map of (n, channels, height, width), cut off at its borders."""
    return _normalise(x, _pixel_sum, 1.0, SPATIAL_FACTOR)


def _normalise(x: torch.Tensor, window: Window, k: float, factor: float) -> torch.Tensor:
    with torch.autocast(x.device.type, enabled=False):
        out: torch.Tensor = _Response.apply(x.float(), window, k, factor)  # type: ignore[no-untyped-call]
    return out


class _Response(torch.autograd.Function):
    """x * d ** -0.75 with d = k + factor * S(x ** 2). S is its own adjoint for both windows."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, window: Window, k: float, factor: float) -> torch.Tensor:
        d = window(x * x).mul_(factor).add_(k)
        ctx.save_for_backward(x, d)
        ctx.window, ctx.factor = window, factor
        return x * _power(d)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        (grad,) = grads
        x, d = ctx.saved_tensors
        power = _power(d)
        spread = ctx.window(grad * x * power / d)
        return grad * power - (1.5 * ctx.factor) * x * spread, None, None, None


def _power(d: torch.Tensor) -> torch.Tensor:
    """d ** -0.75 by square roots, several times as fast as a power."""
    root = d.rsqrt()
    return root * root.sqrt()


def _channel_sum(v: torch.Tensor, groups: int) -> torch.Tensor:
    """Sum over channels i-2 .. i+2 inside each group."""
    size = v.shape[1] // groups
    out = v.clone()
    for shift in range(1, SIZE // 2 + 1):
        for first in range(0, v.shape[1], size):
            group, into = v[:, first : first + size], out[:, first : first + size]
            into[:, shift:] += group[:, :-shift]
            into[:, :-shift] += group[:, shift:]
    return out


def _pixel_sum(v: torch.Tensor) -> torch.Tensor:
    """Sum over the 5 x 5 pixels around each, without those outside of the map."""
    return F.avg_pool2d(v, SIZE, stride=1, padding=SIZE // 2, divisor_override=1)
