"""A run in one process: what it consists of, where it stands, and both as a checkpoint. No Ray here."""

import importlib.metadata
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from pydantic import ValidationError

from augment.loader import Loader
from ingest.dataset import Dataset
from ingest.progress import RunWriter
from trainer import checkpoint
from trainer.board import Board
from trainer.columns import ColumnNet, ColumnPlace
from trainer.guards import RecentLosses
from trainer.networks import AlexNet, Network, build, count_parameters
from trainer.precision import slowness
from trainer.reduce import FlatGradients
from trainer.reporter import Reporter, Standing, Sums
from trainer.schedules import Rates, ScheduleState, rates
from trainer.scores import Errors
from trainer.settings import TrainSettings
from trainer.switches import Recipe
from trainer.update import Rule
from trainer.waiting import DataWait

EXTRAS = 6
LOSS, CORRECT, ROWS, STOP, SAVE, REPORT = range(EXTRAS)
WAITED = EXTRAS
"""Numbers that ride on the reduction of the gradients: sums, and from WAITED on one number of each rank."""


@dataclass(frozen=True)
class RankContext:
    """Which worker this is and what it may use."""

    rank: int
    world_size: int
    device: torch.device
    threads: int
    column: ColumnPlace | None = None
    """Its place where each worker holds one column of the network only."""

    @property
    def replica(self) -> int:
        """Which copy of the network it holds, alone or with another worker; the batch is shared out over the copies."""
        return self.column.pair if self.column else self.rank

    @property
    def num_replicas(self) -> int:
        return self.column.num_pairs if self.column else self.world_size

    @property
    def replicas(self) -> dist.ProcessGroup | None:
        """The workers that hold what it holds, one of each copy; None: all workers."""
        return self.column.peers if self.column else None

    @property
    def partners(self) -> dist.ProcessGroup | None:
        """The workers that hold a copy together; None: it has its copy alone."""
        return self.column.partners if self.column else None


@dataclass
class Training:
    """Everything a step needs, and where the run stands.

    `sample_numbers`: int64 (n,), this rank's samples of the latest step; `good_checkpoint`: the newest one, in words.
    """

    context: RankContext
    dataset: Dataset
    recipe: Recipe
    settings: TrainSettings
    network: Network
    rule: Rule
    gradients: FlatGradients
    loader: Loader
    run: RunWriter | None
    reporter: Reporter
    waiting: DataWait
    schedule: ScheduleState = field(default_factory=ScheduleState)
    rates: Rates | None = None
    epoch: int = 0
    step: int = 0
    epoch_sums: Sums = field(default_factory=Sums)
    recent_losses: RecentLosses = field(default_factory=RecentLosses)
    evaluation_due: bool = False
    errors: Errors | None = None
    sample_numbers: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    good_checkpoint: str | None = None
    saved_at: float = field(default_factory=time.monotonic)

    @property
    def num_parameters(self) -> int:
        """Of the whole network."""
        if isinstance(self.network, ColumnNet):
            return self.network.num_parameters
        return count_parameters(self.network)

    @property
    def total_samples(self) -> int:
        return self.recipe.epochs * self.loader.split.num_samples

    @property
    def samples_done(self) -> int:
        """Samples of all epochs so far."""
        return self.epoch * self.loader.split.num_samples + int(self.epoch_sums.samples)

    @property
    def next_rates(self) -> Rates:
        """Rates of the step that is next."""
        epoch = self.epoch + self.epoch_sums.samples / self.loader.split.num_samples
        return rates(self.recipe.rule, self.schedule, epoch, self.recipe.epochs)

    @property
    def standing(self) -> Standing:
        """Where the run stands, for its reports."""
        return Standing(
            self.step, self.epoch, self.recipe.epochs, self.samples_done, self.total_samples,
            (self.rates or self.next_rates).weights, self.errors,
        )  # fmt: skip


def prepare(
    context: RankContext, dataset: Dataset, recipe: Recipe, settings: TrainSettings, run: RunWriter | None
) -> Training:
    """Build everything from the recipe; nothing is trained yet."""
    torch.set_num_threads(context.threads)
    network = _built(context, recipe).to(context.device)
    loading = recipe.loader.model_copy(update={"threads": context.threads})
    loader = Loader(dataset, loading, rank=context.replica, world_size=context.num_replicas, device=context.device)
    rule, gradients = Rule(network, recipe.rule), FlatGradients(network, EXTRAS + context.world_size, context.replicas)
    board = Board(run.place, run.attempt) if run is not None and settings.tensorboard else None
    if run is not None and (words := slowness(recipe.precision, context.device)):
        run.event("warning", words)
    reporter, waiting = Reporter(run, context.device, board), DataWait(loader, context.device)
    return Training(
        context, dataset, recipe, settings, network, rule, gradients, loader, run, reporter, waiting
    )  # fmt: skip


def _built(context: RankContext, recipe: Recipe) -> Network:
    network = build(recipe.network, recipe.seed)
    if context.column is None or not isinstance(network, AlexNet):
        return network
    return ColumnNet(network, context.column)


def save_checkpoint(training: Training) -> None:
    """Write a checkpoint (rank 0 only; every rank takes part). One before an evaluation is not spoken of, and no older
    one goes: `save_checkpoint` after the evaluation completes it."""
    training.saved_at = time.monotonic()
    network, velocity = training.network.state_dict(), training.rule.state_dict()
    if isinstance(training.network, ColumnNet):
        network, velocity = training.network.whole(network), training.network.whole(velocity)
    path = ""
    if training.run is not None:
        path = checkpoint.save(training.run.place, training.run.attempt, _state(training), network, velocity)
    if training.evaluation_due:
        return
    training.good_checkpoint = f"that of step {training.step:,}"
    if training.run is None:
        return
    checkpoint.prune(training.run.place, training.settings.keep_checkpoints)
    training.good_checkpoint += f" ({path})"
    training.run.event(
        "checkpoint", f"Checkpoint at step {training.step}.", step=training.step, epoch=training.epoch, path=path
    )
    training.reporter.publish()


def restore(training: Training, found: checkpoint.Checkpoint) -> None:
    """Stand where a checkpoint stood. Raises RefusedError if it is of other data or settings."""
    checkpoint.refuse_other({**found.state, "recipe": _as_written_now(found.state["recipe"])}, _identity(training))
    training.network.load_state_dict(found.network)
    own = training.network.own if isinstance(training.network, ColumnNet) else dict
    training.rule.load_state_dict(own(found.velocity))
    training.schedule = ScheduleState(**found.state["schedule"])
    training.step, training.evaluation_due = found.state["step"], found.state["evaluation_due"]
    training.epoch = found.state["epoch"] - training.evaluation_due
    training.epoch_sums = Sums(**found.state["epoch_sums"])
    training.recent_losses = RecentLosses(found.state.get("recent_losses", ()))
    training.errors = Errors(**found.state["errors"]) if found.state["errors"] else None
    training.loader.load_state_dict(found.state["loader"])
    training.good_checkpoint = f"that of step {training.step:,} ({found.path})"
    if training.run is not None:
        training.run.event("resumed", f"Goes on from step {training.step}.", step=training.step, path=found.path)


def _as_written_now(recipe: dict[str, Any]) -> dict[str, Any]:
    """A recipe from a checkpoint with the switches that are younger than it: their defaults are what was done before."""
    try:
        return Recipe.model_validate(recipe).model_dump(mode="json")
    except ValidationError:
        return recipe  # of another Tench: the comparison names what is not known here


def _identity(training: Training) -> dict[str, Any]:
    """What a checkpoint must share with the run that continues it."""
    return {
        "content_id": training.dataset.content_id,
        "classes": [c.wnid for c in training.dataset.classes],
        "recipe": training.recipe.model_dump(mode="json"),
    }


def _state(training: Training) -> dict[str, Any]:
    return {
        **_identity(training),
        "dataset_id": training.dataset.dataset_id,
        "epoch": training.epoch + training.evaluation_due,  # epochs that were trained
        "step": training.step,
        "schedule": training.schedule.to_json(),
        "epoch_sums": vars(training.epoch_sums),
        "recent_losses": training.recent_losses.to_json(),
        "evaluation_due": training.evaluation_due,
        "errors": training.errors.to_json() if training.errors else None,
        "loader": training.loader.state_dict(),
        "execution": {
            "world_size": training.context.world_size,
            "num_replicas": training.context.num_replicas,
            "threads": training.context.threads,
            "device": training.context.device.type,
            "micro_batch": training.settings.micro_batch,  # None: a worker's whole share of the batch
        },
        "versions": {name: importlib.metadata.version(name) for name in ("tench", "torch")},
    }
