"""The update rule of 2012: v <- m v - d e w - e g; w <- w + v (paper, section 5). In float32.

The rate e is inside the velocity, so after a division old velocity keeps its old scale; torch.optim.SGD keeps the
rate outside (switch `velocity`), which differs from then on.
"""

from collections import defaultdict

import torch
from torch import nn

from trainer.schedules import Rates
from trainer.switches import RuleSettings


class Rule:
    """Updates a network's parameters in place; holds a velocity for each."""

    def __init__(self, network: nn.Module, settings: RuleSettings) -> None:
        self.settings = settings
        self._parameters = dict(network.named_parameters())
        self._velocities = {name: torch.zeros_like(p) for name, p in self._parameters.items()}

    @torch.no_grad()
    def step(self, rates: Rates) -> None:
        """One update from the parameters' gradients (means over the global batch). A frozen layer is not touched, its
        velocity included."""
        together: dict[tuple[bool, float], list[str]] = defaultdict(list)
        for name in self._parameters:
            if rate := rates.of(name):
                together[name.endswith("bias"), rate].append(name)
        for (are_biases, rate), names in together.items():
            self._update(names, rate, are_biases)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Velocities by parameter name."""
        return dict(self._velocities)

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Take over velocities. Raises KeyError for a parameter without one."""
        for name, velocity in self._velocities.items():
            velocity.copy_(state[name])

    def _update(self, names: list[str], rate: float, are_biases: bool) -> None:
        decay = 0.0 if are_biases and not self.settings.decay_biases else self.settings.decay
        weights = [self._parameters[name].data for name in names]
        velocities = [self._velocities[name] for name in names]
        gradients = [_gradient(self._parameters[name]) for name in names]
        if self.settings.trust and not are_biases:
            self._trusted(weights, velocities, gradients, rate, decay)
            return
        inside, outside = (rate, 1.0) if self.settings.velocity == "with_rate" else (1.0, rate)
        torch._foreach_mul_(velocities, self.settings.momentum)
        if decay:
            torch._foreach_add_(velocities, weights, alpha=-decay * inside)
        torch._foreach_add_(velocities, gradients, alpha=-inside)
        torch._foreach_add_(weights, velocities, alpha=outside)

    def _trusted(
        self,
        weights: list[torch.Tensor],
        velocities: list[torch.Tensor],
        gradients: list[torch.Tensor],
        rate: float,
        decay: float,
    ) -> None:
        """LARS (You, Gitman, Ginsburg 2017): each weight's rate in proportion to its length over its gradient's."""
        pairs = zip(torch._foreach_norm(weights), torch._foreach_norm(gradients), strict=True)
        local = [self.settings.trust * w / (g + decay * w).clamp_min(1e-12) for w, g in pairs]
        ascents = torch._foreach_add(gradients, weights, alpha=decay)
        torch._foreach_mul_(ascents, local)
        torch._foreach_mul_(velocities, self.settings.momentum)
        torch._foreach_add_(velocities, ascents, alpha=-rate)
        torch._foreach_add_(weights, velocities)


def _gradient(parameter: torch.Tensor) -> torch.Tensor:
    if parameter.grad is None:
        raise RuntimeError("a parameter has no gradient: run the backward pass first")
    return parameter.grad
