"""What a training says of itself while it works: metrics as events, progress as the latest second, both for TensorBoard."""

import time
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, NamedTuple

import torch

from ingest.progress import RunWriter
from trainer.board import Board
from trainer.devices import gpu_figures
from trainer.norms import StepNorms
from trainer.scores import Errors

METRICS_EVERY_S, AT_LEAST_EVERY_S = 1.0, 5.0
COST_SHARE = 0.05
"""What the norms of reported steps may take of the time, unless reports became rarer than the longest interval."""


class StepSums(NamedTuple):
    """Sums of one step over the samples of all ranks: loss in nats, correct first guesses, samples. `waited_s`: how long
    the step waited for data, which is as long as the rank that waited longest; `waits_s`: how long each rank did."""

    loss: float
    correct: float
    samples: float
    waited_s: float = 0.0
    waits_s: tuple[float, ...] = ()


@dataclass
class Sums:
    """Sums over samples of all ranks: loss in nats, correct first guesses, samples."""

    loss: float = 0.0
    correct: float = 0.0
    samples: float = 0.0

    def add(self, step: StepSums) -> None:
        """Count a step in."""
        self.loss += step.loss
        self.correct += step.correct
        self.samples += step.samples


@dataclass(frozen=True)
class Standing:
    """Where a training stands. `epoch` counts from 0; `done` and `total` are samples of the whole run."""

    step: int
    epoch: int
    epochs: int
    done: int
    total: int
    rate: float
    errors: Errors | None


class Reporter:
    """Metrics and progress of a run, about once a second; without a run folder (on other ranks) it is silent."""

    def __init__(self, run: RunWriter | None, device: torch.device, board: Board | None) -> None:
        self._run, self._device, self._board = run, device, board
        self._since, self._waited = Sums(), 0.0
        self._waits: list[float] = []
        self._shares: dict[str, list[float]] = {}
        self._at = self._step_at = time.monotonic()
        self._step_s = self._norms_s = 0.0
        self._last: dict[str, Any] = {}

    def begin(self, step: int) -> None:
        """Training goes on after this step."""
        if self._board is not None:
            self._board.begin(step)

    def due(self) -> bool:
        """Whether the step that now begins is to be reported: by its end a second will have passed (up to five, where
        the norms of a large network take long), or it is the first."""
        self._step_at = time.monotonic()
        interval = min(max(METRICS_EVERY_S, self._norms_s / COST_SHARE), AT_LEAST_EVERY_S)
        return not self._last or self._step_at + self._step_s - self._at >= interval

    def after_step(self, step: StepSums, standing: Standing, norms: StepNorms | None) -> None:
        """Count a step; with its norms, write what happened since the last report."""
        self._since.add(step)
        self._waited += step.waited_s
        self._waits = [a + b for a, b in zip_longest(self._waits, step.waits_s, fillvalue=0.0)]
        self._step_s = time.monotonic() - self._step_at
        if norms is not None and self._run is not None:
            self._norms_s = norms.seconds
            self._report(self._run, standing, norms)

    def leave_out(self, seconds: float) -> None:
        """Do not count seconds that were not training (a checkpoint)."""
        self._at += seconds

    def restart(self) -> None:
        """Count from now on: what was before is told, or was not training (an evaluation)."""
        self._since, self._waited, self._waits, self._at = Sums(), 0.0, [], time.monotonic()

    def evaluated(self, standing: Standing, errors: Errors) -> None:
        """Write the errors after an epoch."""
        if self._run is None:
            return
        self._run.event(
            "evaluated",
            f"Epoch {standing.epoch + 1}: top-1 error {errors.top1_error:.2%}, top-5 error {errors.top5_error:.2%}.",
            epoch=standing.epoch, step=standing.step, **errors.to_json(),
        )  # fmt: skip
        if self._board is not None:
            self._board.evaluated(standing.step, errors.to_json())

    def progress(self, standing: Standing, force: bool = False) -> None:
        """Replace the run's progress with where the training stands."""
        if self._run is None:
            return
        errors = standing.errors
        figures = {
            **self._last,
            **self._shares,
            "epoch": min(standing.epoch + 1, standing.epochs),
            "epochs": standing.epochs,
            "step": standing.step,
            "top1_error": errors.top1_error if errors else None,
            "top5_error": errors.top5_error if errors else None,
        }
        done = min(standing.done, standing.total)
        self._run.progress("training", done, standing.total, "samples", force=force, **figures)

    def publish(self) -> None:
        """Let TensorBoard see everything so far."""
        if self._board is not None:
            self._board.publish()

    def close(self) -> None:
        """End: nothing is written from now on."""
        if self._board is not None:
            self._board.close()

    def _report(self, run: RunWriter, standing: Standing, norms: StepNorms) -> None:
        since, seconds = self._since, max(time.monotonic() - self._at, 1e-9)
        self._last = {
            "step": standing.step, "epoch": standing.epoch, "samples": int(since.samples),
            "loss": round(since.loss / since.samples, 6),
            "train_top1_error": round(1 - since.correct / since.samples, 6), "learning_rate": standing.rate,
            "samples_per_s": round(since.samples / seconds, 2),
            "data_wait_share": round(min(self._waited / seconds, 1.0), 4),
            "gradient_norm": round(norms.gradient_norm, 6), "layers": norms.by_layer(),
            **gpu_figures(self._device),
        }  # fmt: skip
        if len(self._waits) > 1:  # of one worker, data_wait_share says it
            self._shares = {"waiting_by_rank": [round(min(s / seconds, 1.0), 4) for s in self._waits]}
        run.event("metrics", f"Step {standing.step}: loss {self._last['loss']:.4f}.", **self._last)
        if self._board is not None:
            self._board.metrics(self._last)
        self.progress(standing)
        self.restart()
