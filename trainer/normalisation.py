"""Local response normalisation (2012 paper, section 3.3) and the released network's spatial one.

Both are out = in / (k + factor * S) ** 0.75 with S a sum of squares over a window. Always in float32, whatever the
precision around it. Across channels it is done picture by picture on a CPU: a picture's maps stay in the cache through
the two dozen passes over them, which take a fifth of the time then.
"""

from typing import Any

import torch
import torch.nn.functional as F

SIZE = 5
REACH = SIZE // 2
SPATIAL_FACTOR = 0.001 / 25


def across_channels(x: torch.Tensor, k: float, factor: float, groups: int) -> torch.Tensor:
    """LRN over 5 neighbouring channels of (n, channels, height, width), cut off at the ends of each group."""
    with torch.autocast(x.device.type, enabled=False):
        out: torch.Tensor = _Across.apply(x.float(), k, factor, groups)  # type: ignore[no-untyped-call]
    return out


def within_maps(x: torch.Tensor) -> torch.Tensor:
    """Normalisation over 5 x 5 pixels of each map of (n, channels, height, width), cut off at its borders."""
    with torch.autocast(x.device.type, enabled=False):
        out: torch.Tensor = _Within.apply(x.float())  # type: ignore[no-untyped-call]
    return out


class _Across(torch.autograd.Function):
    """x * d ** -0.75 with d = k + factor * S(x ** 2). S is its own adjoint."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, k: float, factor: float, groups: int) -> torch.Tensor:
        rows = _rows(x, groups)
        out, roots, window = torch.empty_like(rows), torch.empty_like(rows), _Window(rows.new_empty(rows.shape[1:]))
        for picture, into, root in zip(rows, out, roots, strict=True):
            d = window.sums(picture, picture).mul_(factor).add_(k).rsqrt_()
            root.copy_(window.inner(d))
            d.mul_(torch.sqrt(d, out=window.scratch))  # d ** -0.75 by square roots, quicker than a power
            torch.mul(picture, window.inner(d), out=into)
        ctx.save_for_backward(rows, roots)
        ctx.window, ctx.factor, ctx.shape = window, factor, x.shape
        return _maps(out, x.shape)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        rows, roots = ctx.saved_tensors
        grad, window = _rows(grads[0], rows.shape[2]), ctx.window
        out, power = torch.empty_like(rows), rows.new_empty(rows.shape[1:])
        for picture, own, into, root in zip(rows, grad, out, roots, strict=True):
            torch.sqrt(root, out=power).mul_(root)
            torch.mul(own, power, out=into)
            spread = window.inner(window.sums(torch.mul(root, root, out=power).mul_(into), picture))
            into.addcmul_(spread, picture, value=-1.5 * ctx.factor)
        return _maps(out, ctx.shape), None, None, None


class _Window:
    """Sums over 5 neighbours of the last axis of (pixels, groups, size).

    Each row lies between zeros, so that one addition of the whole, shifted by one place, serves all rows at once.
    """

    def __init__(self, like: torch.Tensor) -> None:
        *outer, self._size = like.shape
        self._padded = like.new_zeros(*outer, self._size + 2 * REACH)
        self._pairs, self._fours, self._sums = (torch.empty_like(self._padded).view(-1) for _ in range(3))

    @property
    def scratch(self) -> torch.Tensor:
        """Room of the size of the sums; the next sums overwrite it."""
        return self._pairs

    def sums(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Sums of x * y, flat and with places between the rows that mean nothing; until the next call."""
        torch.mul(x, y, out=self._padded[..., REACH:-REACH])
        flat, n = self._padded.view(-1), self._padded.numel()
        pairs = torch.add(flat[:-1], flat[1:], out=self._pairs[: n - 1])
        fours = torch.add(pairs[:-2], pairs[2:], out=self._fours[: n - 3])
        torch.add(fours[:-1], flat[4:], out=self._sums[: n - 4])
        return self._sums

    def inner(self, flat: torch.Tensor) -> torch.Tensor:
        """(pixels, groups, size) of flat values in the order of the sums."""
        return flat.view(self._padded.shape)[..., : self._size]


def _rows(x: torch.Tensor, groups: int) -> torch.Tensor:
    """(parts, pixels, groups, channels of a group) of (n, channels, height, width): a part is a picture on a CPU, and
    all of them on a GPU, where one large operation beats many small ones."""
    parts = len(x) if x.device.type == "cpu" else 1
    rows = x.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)
    return rows.reshape(parts, -1, groups, x.shape[1] // groups)


def _maps(rows: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """(n, channels, height, width), channels last, of rows."""
    n, channels, height, width = shape
    return rows.view(n, height, width, channels).permute(0, 3, 1, 2)


class _Within(torch.autograd.Function):
    """As _Across over the pixels around each, with k = 1."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        d = _pixel_sum(x * x).mul_(SPATIAL_FACTOR).add_(1.0)
        ctx.save_for_backward(x, d)
        return x * _power(d)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        (grad,) = grads
        x, d = ctx.saved_tensors
        power = _power(d)
        spread = _pixel_sum(grad * x * power / d)
        gradient: torch.Tensor = grad * power - (1.5 * SPATIAL_FACTOR) * x * spread
        return gradient


def _power(d: torch.Tensor) -> torch.Tensor:
    """d ** -0.75 by square roots, several times as fast as a power."""
    root = d.rsqrt()
    return root * root.sqrt()


def _pixel_sum(v: torch.Tensor) -> torch.Tensor:
    """Sum over the 5 x 5 pixels around each, without those outside of the map."""
    return F.avg_pool2d(v, SIZE, stride=1, padding=REACH, divisor_override=1)
