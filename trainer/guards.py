"""When a run is to end because it has gone wrong, and what it then says. Pure: numbers in, verdicts and sentences out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

STUCK_WINDOW = 500
STUCK_MARGIN = 0.01
MAX_KEYS = 10


class RecentLosses:
    """Mean losses (nats) of the newest steps, 500 at most; the checkpoint carries them as a list."""

    def __init__(self, losses: Sequence[float] = ()) -> None:
        self._losses = list(losses[-STUCK_WINDOW:])

    def add(self, loss: float) -> None:
        """Count a step in."""
        self._losses.append(loss)
        if len(self._losses) > STUCK_WINDOW:
            self._losses.pop(0)

    def to_json(self) -> list[float]:
        """The losses, oldest first."""
        return list(self._losses)

    def stuck(self, step: int, stuck_after: int, num_classes: int) -> float | None:
        """The mean over the newest steps if it is no better than a guess, ln(num_classes) less 0.01; None if it is.

        Judged from step `stuck_after` on (0: never), over 500 steps, or over `stuck_after` if these are fewer; not
        before as many are known (an older checkpoint does not carry them).
        """
        window = min(STUCK_WINDOW, stuck_after)
        if not stuck_after or step < stuck_after or len(self._losses) < window:
            return None
        mean = math.fsum(self._losses[-window:]) / window
        return mean if mean >= math.log(num_classes) - STUCK_MARGIN else None


def suspects(losses: Sequence[float], numbers: Sequence[int]) -> list[int]:
    """Numbers of the samples whose own loss is not finite, ten at most; of the first ten if all are finite."""
    wrong = [number for loss, number in zip(losses, numbers, strict=True) if not math.isfinite(loss)]
    return list(wrong or numbers)[:MAX_KEYS]


def stuck_words(step: int, mean: float, num_classes: int, stuck_after: int, rate: float) -> str:
    """What a stuck run says when it ends."""
    return (
        f"step {step:,}: the mean loss of the last {min(STUCK_WINDOW, stuck_after):,} steps is {mean:.4f}, a guess among "
        f"{num_classes:,} classes has {math.log(num_classes):.4f}: the network has learnt nothing, the run is stuck. "
        "Either the pictures hardly reach its last layer beside biases of 1 (take --preset museum145, or --switch "
        f"network.bias_one=0.1 or network.init=he), or the rate is wrong (it is {rate:g}; --learning-rate), or the labels "
        "are not those of the pictures (another label order). A checkpoint is kept; to go on from it nevertheless: "
        "--resume --stuck-after 0"
    )


@dataclass(frozen=True)
class Divergence:
    """What is known of a run that diverged. `found`: "the loss is nan"; `num_wrong`: of the step's `num_samples` those
    whose own loss is not finite, None if that is not known; `keys`: ten of these at most, or of all if there are none;
    `checkpoint`: the last good one in words, None if there is none."""

    step: int
    found: str
    num_wrong: int | None
    num_samples: int
    keys: tuple[str, ...]
    checkpoint: str | None

    @property
    def words(self) -> str:
        """What the run says when it ends."""
        kept = f"The last good checkpoint is {self.checkpoint}" if self.checkpoint else "There is no earlier checkpoint"
        return (
            f"step {self.step}: {self.found}; the run diverged. {self._of_samples()}: {', '.join(self.keys) or 'none'}"
            f"{', ...' if (self.num_wrong or self.num_samples) > len(self.keys) else ''}. {kept}; going on from there "
            "with the same settings comes to the same step: begin a new run with a lower --learning-rate, and look at "
            "these samples if they are few"
        )

    def _of_samples(self) -> str:
        if self.num_wrong:
            return f"Of the step's {self.num_samples:,} samples {self.num_wrong:,} have a loss that is not finite"
        if self.num_wrong is None:
            return f"The step's {self.num_samples:,} samples"
        return f"The step's {self.num_samples:,} samples, each with a finite loss of its own"
