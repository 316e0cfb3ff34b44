"""Local response normalisation (2012 paper, section 3.3) and the released network's spatial one.

Both are out = in / (k + factor * S) ** 0.75 with S a sum of squares over a window. Always worked out in float32,
whatever the precision around it. On a CPU it is done picture by picture: a picture's maps stay in the cache through the
two dozen passes over them, which take a fifth of the time then.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from trainer.layers import split

SIZE = 5
REACH = SIZE // 2
SPATIAL_FACTOR = 0.001 / 25
WITHIN_MAPS = 0
"""In place of a number of groups: the window is over the pixels of each map."""


def across_channels(x: torch.Tensor, k: float, factor: float, groups: int) -> torch.Tensor:
    """LRN over 5 neighbouring channels of (n, channels, height, width), cut off at the ends of each group: float32."""
    out: torch.Tensor = _Normalised.apply(x, k, factor, groups)  # type: ignore[no-untyped-call]
    return out


def within_maps(x: torch.Tensor) -> torch.Tensor:
    """Normalisation over 5 x 5 pixels of each map of (n, channels, height, width), cut off at its borders: float32."""
    out: torch.Tensor = _Normalised.apply(x, 1.0, SPATIAL_FACTOR, WITHIN_MAPS)  # type: ignore[no-untyped-call]
    return out


class _Normalised(torch.autograd.Function):
    """x * d ** -0.75 with d = k + factor * S(x ** 2). S is its own adjoint.

    What is kept for the way back is d ** -0.25: every power that is needed is a product of it.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, k: float, factor: float, groups: int) -> torch.Tensor:
        rows = _rows(x)
        out, roots = (torch.empty_like(rows, dtype=torch.float32) for _ in range(2))
        sums, constant = _Sums(split(out)[0], groups), torch.tensor(k)
        for picture, into, root in zip(_floats(rows), split(out), split(roots), strict=True):
            d = sums.of(picture, picture, root)
            torch.add(constant, d, alpha=factor, out=root).rsqrt_().sqrt_()
            torch.mul(picture, root, out=into).mul_(root).mul_(root)
        ctx.save_for_backward(rows, roots)
        ctx.factor, ctx.groups = factor, groups
        return out.permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        rows, roots = ctx.saved_tensors
        out, grad = torch.empty_like(rows), _rows(grads[0])
        scratch, power, spread = (torch.empty_like(split(roots)[0]) for _ in range(3))
        sums = _Sums(scratch, ctx.groups)
        for picture, own, into, root in zip(_floats(rows), split(grad), split(out), split(roots), strict=True):
            gradient = into if into.dtype == torch.float32 else scratch
            torch.mul(root, root, out=power)
            torch.mul(power, root, out=gradient).mul_(own)
            sums.of(torch.mul(gradient, picture, out=spread), power.mul_(power), spread)
            gradient.addcmul_(spread, picture, value=-1.5 * ctx.factor)
            if gradient is not into:
                into.copy_(gradient)
        return out.permute(0, 3, 1, 2), None, None, None


class _Sums:
    """Sums over the window around each place of (n, height, width, channels)."""

    def __init__(self, like: torch.Tensor, groups: int) -> None:
        *outer, channels = like.shape
        self._shape = like.shape if groups == WITHIN_MAPS else (*outer, groups, channels // groups)
        self._windows = [_Window(like, self._shape, dim) for dim in ((2, 1) if groups == WITHIN_MAPS else (4,))]

    def of(self, x: torch.Tensor, y: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """Sums of x * y into `out`, which may be one of them."""
        rooms = [window.room for window in self._windows]
        torch.mul(x.view(self._shape), y.view(self._shape), out=rooms[0])
        for window, into in zip(self._windows, (*rooms[1:], out.view(self._shape)), strict=True):
            window.sums(into)
        return out


class _Window:
    """Sums over 5 neighbours along one axis.

    Each row lies between zeros, so that one addition of the whole, shifted by one place, serves all rows at once.
    """

    def __init__(self, like: torch.Tensor, shape: Sequence[int], dim: int) -> None:
        self._dim, self._size, self._step = dim, shape[dim], math.prod(shape[dim + 1 :])
        self._padded = like.new_zeros(*shape[:dim], shape[dim] + 2 * REACH, *shape[dim + 1 :])
        self._pairs, self._fours = torch.empty_like(self._padded), torch.empty_like(self._padded)
        self.room = self._padded.narrow(dim, REACH, self._size)

    def sums(self, out: torch.Tensor) -> None:
        """Sums over what lies in `room`."""
        step, n = self._step, self._padded.numel()
        flat, pairs, fours = self._padded.view(-1), self._pairs.view(-1), self._fours.view(-1)
        torch.add(flat[: n - step], flat[step:], out=pairs[: n - step])
        torch.add(pairs[: n - 3 * step], pairs[2 * step : n - step], out=fours[: n - 3 * step])
        torch.add(
            self._fours.narrow(self._dim, 0, self._size), self._padded.narrow(self._dim, 2 * REACH, self._size), out=out
        )


def _rows(x: torch.Tensor) -> torch.Tensor:
    """(n, height, width, channels) of (n, channels, height, width), without a copy if that is how it lies."""
    return x.permute(0, 2, 3, 1).contiguous()


def _floats(rows: torch.Tensor) -> Iterator[torch.Tensor]:
    """The parts in float32, each until the next one."""
    parts = split(rows)
    if rows.dtype == torch.float32:
        yield from parts
        return
    room = torch.empty_like(parts[0], dtype=torch.float32)
    for part in parts:
        yield room[: len(part)].copy_(part)
