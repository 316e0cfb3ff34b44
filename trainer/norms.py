"""How large gradients, weights and updates are: L2 norms, worked out in the steps that are reported and in no other.

A norm is the root of a sum of squares, float32 within pieces of 2^20 numbers, float64 over the pieces (torch's own
float32 norm of fc6 is off by 0.3 % on a CPU). Of the update, the change of the weights from before the step to after
it, 65,536 evenly spaced weights of each layer are looked at, or all if there are fewer: a copy of all would cost
more than the norms.
"""

import math
import time
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import nn

PIECE = 1 << 20
SAMPLE = 1 << 16


def norms(tensors: Iterable[torch.Tensor], group: dist.ProcessGroup | None = None) -> list[float]:
    """The L2 norm of each tensor; not finite exactly if one of its numbers is not.

    `group`: ranks that have a part of each tensor; the norms are those of the parts together.
    """
    flat = [_flat(tensor) for tensor in tensors]
    sums = _added([_square(f) for f in flat], group)
    # A square may overflow in float32 where the number itself does not.
    return [
        math.sqrt(s if math.isfinite(s) else _added([_square(f.double())], group)[0])
        for s, f in zip(sums, flat, strict=True)
    ]


def all_finite(tensors: Iterable[torch.Tensor], group: dist.ProcessGroup | None = None) -> bool:
    """Whether every number is finite, on all ranks of `group` if there is one."""
    return all(math.isfinite(norm) for norm in norms(tensors, group))


class StepNorms:
    """The norms of one step: begun when the gradients are means and the weights still the old ones.

    `group`: ranks that hold the network together, each a part of every parameter; all of them make it.
    """

    def __init__(self, network: nn.Module, group: dist.ProcessGroup | None = None) -> None:
        started = time.monotonic()
        self._group = group
        self._parameters = dict(network.named_parameters())
        gradients = {name: p.grad for name, p in self._parameters.items() if p.grad is not None}
        self._gradients = dict(zip(gradients, norms(gradients.values(), group), strict=True))
        self._names = [name for name in gradients if name.endswith(".weight")]
        self._before = [_sample(self._parameters[name]).clone() for name in self._names]
        self._after: list[list[float]] = []
        self.seconds = time.monotonic() - started
        """What they have taken."""

    @property
    def gradient_norm(self) -> float:
        """Of the mean gradient of all parameters together; not finite if any of its numbers is not."""
        return math.sqrt(math.fsum(norm * norm for norm in self._gradients.values()))

    def after_update(self) -> None:
        """Look at the new weights: every rank of a group does, whichever reports them."""
        started = time.monotonic()
        weights = [self._parameters[name] for name in self._names]
        changes = [_sample(w) - before for w, before in zip(weights, self._before, strict=True)]
        self._after = [norms(tensors, self._group) for tensors in (weights, changes, self._before)]
        self.seconds += time.monotonic() - started

    def by_layer(self) -> dict[str, dict[str, float | None]]:
        """After the update: {layer: weight_norm, gradient_norm, update_ratio} of its weights (biases left out).

        update_ratio is the norm of the update over that of the weights before it; None where all weights were 0.
        """
        if not self._after:
            self.after_update()
        return {
            name.removesuffix(".weight"): {
                "weight_norm": _digits(size),
                "gradient_norm": _digits(self._gradients[name]),
                "update_ratio": _digits(change / old) if old else None,
            }
            for name, size, change, old in zip(self._names, *self._after, strict=True)
        }


def _flat(tensor: torch.Tensor) -> torch.Tensor:
    """The numbers in the order they lie in memory, without a copy: parameters and gradients have no gaps."""
    return tensor.detach().as_strided((tensor.numel(),), (1,))


def _added(squares: list[torch.Tensor], group: dist.ProcessGroup | None) -> list[float]:
    """Sums of squares, added over the ranks of the group."""
    sums = torch.stack(squares)
    if group is not None:
        dist.all_reduce(sums, group=group)
    return [float(value) for value in sums.tolist()]


def _square(flat: torch.Tensor) -> torch.Tensor:
    pieces = torch.split(flat, PIECE)
    return torch.stack([torch.dot(piece, piece) for piece in pieces]).double().sum()


def _sample(weights: torch.Tensor) -> torch.Tensor:
    flat = _flat(weights)
    return flat[:: -(-len(flat) // SAMPLE)]


def _digits(value: float) -> float:
    return float(f"{value:.6g}")
