"""What a training says of itself while it works: metrics as events, progress as the latest second."""

import time
from dataclasses import dataclass
from typing import Any

from ingest.progress import RunWriter
from trainer.evaluate import Errors

METRICS_EVERY_S = 1.0


@dataclass
class Sums:
    """Sums over samples of all ranks: loss in nats, correct first guesses, samples."""

    loss: float = 0.0
    correct: float = 0.0
    samples: float = 0.0

    def add(self, loss: float, correct: float, samples: float) -> None:
        """Count a step in."""
        self.loss += loss
        self.correct += correct
        self.samples += samples


@dataclass(frozen=True)
class Standing:
    """Where a training stands. `epoch` counts from 0; `done` and `total` are samples of the whole run."""

    step: int
    epoch: int
    epochs: int
    done: int
    total: int
    rate: float
    waited_s: float
    errors: Errors | None


class Reporter:
    """Metrics and progress of a run, at most once a second; without a run folder (on other ranks) it is silent."""

    def __init__(self, run: RunWriter | None) -> None:
        self._run = run
        self._since = Sums()
        self._at = time.monotonic()
        self._waited = 0.0
        self._last: dict[str, Any] = {}

    def after_step(self, loss: float, correct: float, rows: float, standing: Standing) -> None:
        """Count a step, and report if a second has passed."""
        self._since.add(loss, correct, rows)
        if time.monotonic() - self._at >= METRICS_EVERY_S:
            self.report(standing)

    def report(self, standing: Standing) -> None:
        """Write what happened since the last report."""
        since, seconds = self._since, max(time.monotonic() - self._at, 1e-9)
        if self._run is None or not since.samples:
            return
        self._last = {
            "step": standing.step, "epoch": standing.epoch, "loss": round(since.loss / since.samples, 6),
            "train_top1_error": round(1 - since.correct / since.samples, 6), "learning_rate": standing.rate,
            "samples_per_s": round(since.samples / seconds, 2),
            "data_wait_share": round(min((standing.waited_s - self._waited) / seconds, 1.0), 4),
        }  # fmt: skip
        self._run.event("metrics", f"Step {standing.step}: loss {self._last['loss']:.4f}.", **self._last)
        self.progress(standing)
        self.restart(standing)

    def restart(self, standing: Standing) -> None:
        """Leave out what was not training (an evaluation, a checkpoint)."""
        self._since, self._at, self._waited = Sums(), time.monotonic(), standing.waited_s

    def progress(self, standing: Standing, force: bool = False) -> None:
        """Replace the run's progress with where the training stands."""
        if self._run is None:
            return
        errors = standing.errors
        figures = {
            **self._last,
            "epoch": min(standing.epoch + 1, standing.epochs),
            "epochs": standing.epochs,
            "step": standing.step,
            "top1_error": errors.top1_error if errors else None,
            "top5_error": errors.top5_error if errors else None,
        }
        done = min(standing.done, standing.total)
        self._run.progress("training", done, standing.total, "samples", force=force, **figures)
