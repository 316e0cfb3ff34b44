"""When the rate is divided: pure functions over a small state that the checkpoint carries."""

from dataclasses import asdict, dataclass, replace
from typing import Any

from trainer.settings import RuleSettings


@dataclass(frozen=True)
class Rates:
    """Rates of a step."""

    weights: float
    biases: float


@dataclass(frozen=True)
class ScheduleState:
    """What a schedule remembers: the best validation error, evaluations since it, divisions made."""

    best_error: float | None = None
    stalled: int = 0
    divisions: int = 0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def rates(rule: RuleSettings, state: ScheduleState, epoch: int) -> Rates:
    """The rates of an epoch (from 0)."""
    made = state.divisions if rule.schedule == "plateau" else sum(1 for e in rule.divide_at if epoch >= e)
    if rule.schedule == "constant":
        made = 0
    divided = rule.divide_by**made
    biases = rule.learning_rate * rule.bias_rate_factor
    return Rates(rule.learning_rate / divided, biases / divided if rule.lower_biases else biases)


def after_evaluation(rule: RuleSettings, state: ScheduleState, error: float) -> ScheduleState:
    """The state after an evaluation: the paper divides the rate when validation error stops improving (section 5)."""
    if state.best_error is None or error < state.best_error:
        return replace(state, best_error=error, stalled=0)
    stalled = state.stalled + 1
    if rule.schedule == "plateau" and stalled >= rule.patience and state.divisions < rule.divisions:
        return replace(state, stalled=0, divisions=state.divisions + 1)
    return replace(state, stalled=stalled)
