"""The step, the epoch and the run as plain functions over (network, rule, loader). No Ray here."""

import importlib.metadata
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F

from augment.loader import Batch, Loader
from ingest.dataset import Dataset
from ingest.errors import Interrupted, TenchError
from ingest.progress import RunWriter
from trainer import checkpoint
from trainer.delivery import delivered
from trainer.dropout import DropoutKey
from trainer.evaluate import Errors, evaluate
from trainer.networks import AlexNet, build, count_parameters
from trainer.reduce import FlatGradients
from trainer.reporter import Reporter, Standing, Sums
from trainer.schedules import ScheduleState, after_evaluation, rates
from trainer.settings import Recipe, TrainSettings
from trainer.update import Rule

EXTRAS = 5
LOSS, CORRECT, ROWS, STOP, SAVE = range(EXTRAS)
EVALUATION_BATCH = 64


@dataclass(frozen=True)
class RankContext:
    """Which worker this is and what it may use."""

    rank: int
    world_size: int
    device: torch.device
    threads: int


@dataclass
class Training:
    """A run in one process: everything a step needs, and where the run stands."""

    context: RankContext
    dataset: Dataset
    recipe: Recipe
    settings: TrainSettings
    network: AlexNet
    rule: Rule
    gradients: FlatGradients
    loader: Loader
    run: RunWriter | None
    reporter: Reporter
    schedule: ScheduleState = field(default_factory=ScheduleState)
    epoch: int = 0
    step: int = 0
    epoch_sums: Sums = field(default_factory=Sums)
    evaluation_due: bool = False
    errors: Errors | None = None
    saved_at: float = field(default_factory=time.monotonic)

    @property
    def total_samples(self) -> int:
        return self.recipe.epochs * self.loader.split.num_samples

    @property
    def samples_done(self) -> int:
        """Samples of all epochs so far."""
        return self.epoch * self.loader.split.num_samples + int(self.epoch_sums.samples)


def prepare(
    context: RankContext, dataset: Dataset, recipe: Recipe, settings: TrainSettings, run: RunWriter | None
) -> Training:
    """Build everything from the recipe; nothing is trained yet."""
    torch.set_num_threads(context.threads)
    network = build(recipe.network, recipe.seed).to(context.device)
    loading = recipe.loader.model_copy(update={"threads": context.threads})
    loader = Loader(dataset, loading, rank=context.rank, world_size=context.world_size, device=context.device)
    rule, gradients = Rule(network, recipe.rule), FlatGradients(network, EXTRAS)
    return Training(context, dataset, recipe, settings, network, rule, gradients, loader, run, Reporter(run))


def fit(training: Training, found: checkpoint.Checkpoint | None) -> dict[str, Any]:
    """Train to the last epoch, from a checkpoint if there is one. Returns the final facts.

    Raises Interrupted after a stop, with a checkpoint written at the step where every rank stopped.
    """
    started = time.monotonic()
    if found is not None:
        restore(training, found)
    first = training.samples_done
    with training.loader:
        if training.evaluation_due:
            _finish_epoch(training)
        while training.epoch < training.recipe.epochs:
            train_epoch(training)
            _finish_epoch(training)
    seconds = time.monotonic() - started
    return _facts(training, seconds, training.samples_done - first)


def train_epoch(training: Training) -> None:
    """The rest of the epoch: steps, metrics, timed checkpoints. Raises Interrupted after a stop."""
    training.loader.set_epoch(training.epoch)
    rate = rates(training.recipe.rule, training.schedule, training.epoch)
    first_step = int(training.loader.state_dict()["step"])
    for batch in training.loader:
        loss, correct, rows, stop, save = train_step(training, batch, *_wishes(training))
        training.rule.step(rate)
        training.step += 1
        _raise_if_diverged(training.step, loss)
        training.epoch_sums.add(loss, correct, rows)
        training.reporter.after_step(loss, correct, rows, _standing(training))
        # After its last step the epoch writes its own checkpoint, which says that it is over.
        is_last = training.loader.state_dict()["step"] == len(training.loader)
        if stop or (save and not is_last):
            save_checkpoint(training)
        if stop:
            training.reporter.progress(_standing(training), force=True)
            raise Interrupted(f"Stopped after step {training.step}; the checkpoint there is complete.")
    _tell_delivered(training, first_step)
    training.evaluation_due = True


def _tell_delivered(training: Training, first_step: int) -> None:
    """Prove that the epoch was delivered whole, and say so."""
    found, num_replaced = delivered(training.loader, first_step, training.context.device)
    if training.run is not None:
        words = f", {num_replaced:,} of them in place of damaged ones" if num_replaced else ""
        training.run.event(
            "delivered",
            f"Epoch {training.epoch + 1}: {found.count:,} samples were delivered, each as the order asks{words}.",
            epoch=training.epoch, first_step=first_step, num_samples=found.count, digest=f"{found.digest:016x}",
            num_replaced=num_replaced,
        )  # fmt: skip


def train_step(training: Training, batch: Batch, stop: bool, save: bool) -> list[float]:
    """Gradient means of one global batch into the parameters' `.grad`.

    Returns, summed over ranks: loss, correct predictions, rows, wishes to stop, wishes for a checkpoint.
    """
    gradients, n = training.gradients, len(batch.labels)
    gradients.zero()
    key = DropoutKey(training.recipe.seed, training.step, batch.places.numpy())
    for first, last, is_last in _micro_batches(n, training.settings.micro_batch or max(n, 1)):
        if is_last:
            gradients.arm()
        _accumulate(training, batch, key.part(first, last), first, last)
    gradients.extras[ROWS] = n
    gradients.extras[STOP], gradients.extras[SAVE] = float(stop), float(save)
    sums = gradients.reduce()
    gradients.divide(max(sums[ROWS], 1.0))
    return sums


def save_checkpoint(training: Training) -> None:
    """Write a checkpoint (rank 0 only)."""
    training.saved_at = time.monotonic()
    if training.run is None:
        return
    path = checkpoint.save(
        training.run.place, training.run.attempt, _state(training), training.network.state_dict(),
        training.rule.state_dict(),
    )  # fmt: skip
    checkpoint.prune(training.run.place, training.settings.keep_checkpoints)
    training.run.event(
        "checkpoint", f"Checkpoint at step {training.step}.", step=training.step, epoch=training.epoch, path=path
    )


def restore(training: Training, found: checkpoint.Checkpoint) -> None:
    """Stand where a checkpoint stood. Raises RefusedError if it is of other data or settings."""
    checkpoint.refuse_other(found.state, _identity(training))
    training.network.load_state_dict(found.network)
    training.rule.load_state_dict(found.velocity)
    training.schedule = ScheduleState(**found.state["schedule"])
    training.epoch, training.step = found.state["epoch"], found.state["step"]
    training.epoch_sums = Sums(**found.state["epoch_sums"])
    training.evaluation_due = found.state["evaluation_due"]
    training.errors = Errors(**found.state["errors"]) if found.state["errors"] else None
    training.loader.load_state_dict(found.state["loader"])
    if training.run is not None:
        training.run.event("resumed", f"Goes on from step {training.step}.", step=training.step, path=found.path)


def _accumulate(training: Training, batch: Batch, key: DropoutKey, first: int, last: int) -> None:
    """Add the gradients of rows first .. last - 1 (sums, not means)."""
    images, labels = batch.images[first:last], batch.labels[first:last]
    bf16 = training.recipe.precision == "bf16"
    with torch.autocast(training.context.device.type, torch.bfloat16, enabled=bf16):
        logits = training.network(images, dropout=key)
    loss = F.cross_entropy(logits, labels, reduction="sum")
    loss.backward()  # type: ignore[no-untyped-call]
    training.gradients.extras[LOSS] += loss.detach().double()
    training.gradients.extras[CORRECT] += (logits.argmax(dim=1) == labels).sum()


def _micro_batches(n: int, size: int) -> Iterator[tuple[int, int, bool]]:
    """(first, last, whether it is the last one) of each micro-batch."""
    for first in range(0, n, size):
        last = min(first + size, n)
        yield first, last, last == n


def _wishes(training: Training) -> tuple[bool, bool]:
    """Whether rank 0 wants to stop, or to write a checkpoint because one is due."""
    if training.run is None:
        return False, False
    due = time.monotonic() - training.saved_at >= training.settings.checkpoint_minutes * 60
    return training.run.stop_requested(), due


def _finish_epoch(training: Training) -> None:
    """Evaluate, adjust the schedule, write the epoch's checkpoint."""
    run = training.run
    training.reporter.report(_standing(training))
    if "val" in training.dataset.split_names:
        training.errors = _evaluate(training)
        _raise_if_diverged(training.step, training.errors.loss)
        training.schedule = after_evaluation(training.recipe.rule, training.schedule, training.errors.top1_error)
        if run is not None:
            run.event(
                "evaluated",
                f"Epoch {training.epoch + 1}: top-1 error {training.errors.top1_error:.2%}, "
                f"top-5 error {training.errors.top5_error:.2%}.",
                epoch=training.epoch, step=training.step, **training.errors.to_json(),
            )  # fmt: skip
    training.epoch += 1
    training.epoch_sums = Sums()
    training.evaluation_due = False
    training.loader.set_epoch(training.epoch)
    save_checkpoint(training)
    if run is not None:
        run.flush()  # an epoch is news: it must not wait for its segment to be closed
    training.reporter.restart(_standing(training))
    training.reporter.progress(_standing(training), force=True)


def _standing(training: Training) -> Standing:
    rate = rates(training.recipe.rule, training.schedule, training.epoch).weights
    return Standing(
        training.step, training.epoch, training.recipe.epochs, training.samples_done, training.total_samples, rate,
        training.loader.waited_s, training.errors,
    )  # fmt: skip


def _raise_if_diverged(step: int, loss: float) -> None:
    if not math.isfinite(loss):
        raise TenchError(f"step {step}: the loss is {loss}; the run diverged. Take a lower --learning-rate")


def _evaluate(training: Training) -> Errors:
    context = training.context
    loading = training.recipe.loader.model_copy(
        update={"threads": context.threads, "global_batch": EVALUATION_BATCH * context.world_size}
    )
    with Loader(
        training.dataset, loading, split="val", rank=context.rank, world_size=context.world_size, device=context.device,
        views=1,
    ) as loader:  # fmt: skip
        return evaluate(training.network, loader, training.recipe.precision)


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
        "epoch": training.epoch,
        "step": training.step,
        "schedule": training.schedule.to_json(),
        "epoch_sums": vars(training.epoch_sums),
        "evaluation_due": training.evaluation_due,
        "errors": training.errors.to_json() if training.errors else None,
        "loader": training.loader.state_dict(),
        "execution": {
            "world_size": training.context.world_size,
            "threads": training.context.threads,
            "device": training.context.device.type,
        },
        "versions": {name: importlib.metadata.version(name) for name in ("tench", "torch")},
    }


def _facts(training: Training, seconds: float, samples: int) -> dict[str, Any]:
    errors = training.errors.to_json() if training.errors else {}
    return {
        "epochs": training.epoch,
        "steps": training.step,
        "top1_error": errors.get("top1_error"),
        "top5_error": errors.get("top5_error"),
        "loss": errors.get("loss"),
        "num_samples": errors.get("num_samples"),
        "num_parameters": count_parameters(training.network),
        "world_size": training.context.world_size,
        "device": training.context.device.type,
        "seconds": round(seconds, 2),
        "samples_per_s": round(samples / seconds, 2) if seconds else 0.0,
    }
