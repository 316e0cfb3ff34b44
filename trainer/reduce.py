"""Gradients as sums over ranks, in a few flat buffers that stay the same from the first step to the last.

Each parameter's `.grad` is a view into one of two buffers (convolutional, fully connected). A buffer is reduced as
soon as the backward pass has filled it: the fully connected one, with most of the numbers, travels while the
convolutional gradients are still being computed. Not DDP, whose buckets change after the first step, so that a
resumed run would add in another order than an uninterrupted one.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn


class FlatGradients:
    """The gradient buffers of a network, with a few extra numbers riding along in float64.

    Gradients are added over the ranks of `group` (all, unless told), the extras over all ranks.
    """

    def __init__(self, network: nn.Module, num_extras: int, group: dist.ProcessGroup | None = None) -> None:
        named = list(network.named_parameters())
        self.device = named[0][1].device
        self.extras = torch.zeros(num_extras, dtype=torch.float64, device=self.device)
        self._buffers: list[torch.Tensor] = []
        self._waiting: list[int] = []
        self._sizes: list[int] = []
        self._under_way: list[Any] = []
        self._armed = False
        self._group = group
        for prefix in ("fc", "conv"):
            self._lay_out([parameter for name, parameter in named if name.startswith(prefix)])

    def zero(self) -> None:
        """Begin a step."""
        for buffer in self._buffers:
            buffer.zero_()
        self.extras.zero_()
        self._waiting = list(self._sizes)
        self._under_way = [None] * len(self._buffers)
        self._armed = False

    def arm(self) -> None:
        """The next backward pass is the step's last: reduce each buffer as it fills."""
        self._armed = dist.is_initialized()

    def reduce(self) -> list[float]:
        """Sum gradients and extras over the ranks; the extras' sums. Ranks without rows take part with zeros."""
        if dist.is_initialized():
            for place, buffer in enumerate(self._buffers):
                if self._under_way[place] is None:
                    self._under_way[place] = dist.all_reduce(buffer, group=self._group, async_op=True)
            last = dist.all_reduce(self.extras, async_op=True)
            for handle in (*self._under_way, last):
                handle.wait()
        return [float(value) for value in self.extras.tolist()]

    def divide(self, count: float) -> None:
        """Sums to means over the true global batch."""
        torch._foreach_div_(self._buffers, count)

    def _lay_out(self, parameters: Sequence[nn.Parameter]) -> None:
        place = len(self._buffers)
        buffer = torch.zeros(sum(p.numel() for p in parameters), device=self.device)
        start = 0
        for parameter in parameters:
            flat = buffer[start : start + parameter.numel()]
            # The same strides as the parameter's, or autograd would not accumulate into the view.
            parameter.grad = flat.as_strided(parameter.shape, parameter.stride())
            start += parameter.numel()
            parameter.register_post_accumulate_grad_hook(lambda _, place=place: self._filled(place))  # type: ignore[no-untyped-call]
        self._buffers.append(buffer)
        self._sizes.append(len(parameters))

    def _filled(self, place: int) -> None:
        """One parameter's gradient is complete; the last one of an armed buffer starts its reduction."""
        if not self._armed:
            return
        self._waiting[place] -= 1
        # Buffers start in one order on every rank: the fully connected one, then the convolutional one.
        ready = all(handle is not None for handle in self._under_way[:place])
        if self._waiting[place] == 0 and ready:
            self._under_way[place] = dist.all_reduce(self._buffers[place], group=self._group, async_op=True)


def sum_over_ranks(
    values: Sequence[float], device: torch.device, group: dist.ProcessGroup | None = None
) -> list[float]:
    """Sums of float64 values over the ranks of `group`: all, unless told."""
    total = torch.tensor(values, dtype=torch.float64, device=device)
    if dist.is_initialized():
        dist.all_reduce(total, group=group)
    return [float(value) for value in total.tolist()]
