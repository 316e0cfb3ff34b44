"""The rates of every step: pure functions over the epoch and a small state that the checkpoint carries."""

import math
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from trainer.switches import RuleSettings


@dataclass(frozen=True)
class Rates:
    """Rates of a step; `layers` holds those of layers with their own, by name."""

    weights: float
    biases: float
    layers: dict[str, float] = field(default_factory=dict)

    def of(self, name: str) -> float:
        """The rate of a parameter ("conv1.weight"); 0: it is frozen."""
        layer, _, kind = name.rpartition(".")
        own = self.layers.get(layer)
        if own == 0:
            return 0.0
        if kind == "bias":
            return self.biases
        return self.weights if own is None else own


@dataclass(frozen=True)
class ScheduleState:
    """What a schedule remembers: the best validation error, evaluations since it, divisions made."""

    best_error: float | None = None
    stalled: int = 0
    divisions: int = 0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def rates(rule: RuleSettings, state: ScheduleState, epoch: float, epochs: int) -> Rates:
    """The rates at a moment of a run of `epochs`: `epoch` counts from 0, 2.5 is the middle of the third."""
    weights = rule.learning_rate * _lowered(rule, state, epoch, epochs, rule.dexp)
    biases = rule.learning_rate * rule.bias_rate_factor
    if rule.lower_biases:
        biases *= _lowered(rule, state, epoch, epochs, rule.dexp_biases)
    warm = min(1.0, epoch / rule.warmup_epochs) if rule.warmup_epochs else 1.0
    return Rates(weights * warm, biases * warm, _layer_rates(rule, epoch))


def after_evaluation(rule: RuleSettings, state: ScheduleState, error: float) -> ScheduleState:
    """The state after an evaluation: the paper divides the rate when validation error stops improving (section 5)."""
    if state.best_error is None or error < state.best_error - rule.threshold:
        return replace(state, best_error=error, stalled=0)
    stalled = state.stalled + 1
    if rule.schedule == "plateau" and stalled >= rule.patience and state.divisions < rule.divisions:
        return replace(state, stalled=0, divisions=state.divisions + 1)
    return replace(state, stalled=stalled)


def _lowered(rule: RuleSettings, state: ScheduleState, epoch: float, epochs: int, dexp: tuple[float, int]) -> float:
    """What of the first rate is left."""
    if rule.schedule == "plateau":
        return float(rule.divide_by**-state.divisions)
    if rule.schedule == "epochs":
        return float(rule.divide_by ** -sum(epoch >= division for division in rule.divide_at))
    if rule.schedule == "dexp":
        # A level holds up to and including its share of the run (cuda-convnet2's lr.cu).
        factor, levels = dexp
        level = min(max(math.ceil(epoch / epochs * levels) - 1, 0), levels - 1)
        return float(factor ** (-level / (levels - 1)))
    if rule.schedule == "cosine":
        over = max(epochs - rule.warmup_epochs, 1e-9)
        share = min(max((epoch - rule.warmup_epochs) / over, 0.0), 1.0)
        return (1 + math.cos(math.pi * share)) / 2
    return 1.0


def _layer_rates(rule: RuleSettings, epoch: float) -> dict[str, float]:
    """Own rates that are in force at an epoch: of each layer the one that began last."""
    begun = {layer: [(at, rate) for at, rate in own if epoch >= at] for layer, own in rule.layer_rates.items()}
    return {layer: max(own)[1] for layer, own in begun.items() if own}
