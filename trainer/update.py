"""The update rule of 2012: v <- m v - d e w - e g; w <- w + v (paper, section 5). In float32.

The rate e is inside the velocity, so after a division old velocity keeps its old scale; torch.optim.SGD keeps the
rate outside, which differs from then on.
"""

from collections.abc import Sequence

import torch
from torch import nn

from trainer.schedules import Rates
from trainer.settings import RuleSettings


class Rule:
    """Updates a network's parameters in place; holds a velocity for each."""

    def __init__(self, network: nn.Module, settings: RuleSettings) -> None:
        self.settings = settings
        named = list(network.named_parameters())
        self.names = [name for name, _ in named]
        self.parameters = [parameter for _, parameter in named]
        self.velocities = [torch.zeros_like(p) for p in self.parameters]

    @torch.no_grad()
    def step(self, rates: Rates) -> None:
        """One update from the parameters' gradients (means over the global batch)."""
        for biases in (False, True):
            chosen = [i for i, name in enumerate(self.names) if name.endswith("bias") == biases]
            decay = self.settings.decay if not biases or self.settings.decay_biases else 0.0
            self._update(chosen, rates.biases if biases else rates.weights, decay)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Velocities by parameter name."""
        return dict(zip(self.names, self.velocities, strict=True))

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Take over velocities. Raises KeyError for a parameter without one."""
        for name, velocity in zip(self.names, self.velocities, strict=True):
            velocity.copy_(state[name])

    def _update(self, chosen: Sequence[int], rate: float, decay: float) -> None:
        weights = [self.parameters[i].data for i in chosen]
        velocities = [self.velocities[i] for i in chosen]
        gradients = [_gradient(self.parameters[i]) for i in chosen]
        torch._foreach_mul_(velocities, self.settings.momentum)
        if decay:
            torch._foreach_add_(velocities, weights, alpha=-decay * rate)
        torch._foreach_add_(velocities, gradients, alpha=-rate)
        torch._foreach_add_(weights, velocities)


def _gradient(parameter: torch.Tensor) -> torch.Tensor:
    if parameter.grad is None:
        raise RuntimeError("a parameter has no gradient: run the backward pass first")
    return parameter.grad
