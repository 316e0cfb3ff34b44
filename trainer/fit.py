"""The epoch and the run as plain functions over (network, rule, loader). No Ray here."""

import time
from contextlib import closing, nullcontext
from typing import Any

from augment.loader import Batch, Loader
from ingest.errors import Interrupted
from trainer import checkpoint, halting
from trainer.delivery import delivered
from trainer.evaluate import evaluate
from trainer.norms import StepNorms
from trainer.reporter import Sums
from trainer.schedules import after_evaluation
from trainer.scores import Errors
from trainer.step import Wishes, told, train_step
from trainer.tracing import Trace
from trainer.training import LOSS, ROWS, RankContext, Training, prepare, restore, save_checkpoint

__all__ = ["LOSS", "ROWS", "RankContext", "Training", "fit", "prepare", "save_checkpoint", "train_epoch", "train_step"]

EVALUATION_BATCH = 64


def fit(training: Training, found: checkpoint.Checkpoint | None) -> dict[str, Any]:
    """Train to the last epoch, from a checkpoint if there is one. Returns the final facts.

    Raises Interrupted after a stop, with a checkpoint written at the step where every rank stopped, or before the
    evaluation that was broken off; TenchError if the run diverged or is stuck (`halting.py`).
    """
    started = time.monotonic()
    if found is not None:
        restore(training, found)
    training.reporter.begin(training.step)
    first = training.samples_done
    with training.loader, closing(training.reporter), _trace(training) as trace:
        if training.evaluation_due:
            _finish_epoch(training)
        while training.epoch < training.recipe.epochs:
            train_epoch(training, trace)
            halting.refuse_diverged_weights(training)
            if _has_validation(training):
                save_checkpoint(training)
            _finish_epoch(training)
    seconds = time.monotonic() - started
    return _facts(training, seconds, training.samples_done - first)


def train_epoch(training: Training, trace: Trace | None = None) -> None:
    """The rest of the epoch: steps, metrics, timed checkpoints. Raises Interrupted after a stop, TenchError if the run
    diverged or is stuck."""
    training.loader.set_epoch(training.epoch)
    first_step = int(training.loader.state_dict()["step"])
    for batch in training.waiting.batches():
        # After its last step the epoch writes its own checkpoint, which says that it is over.
        is_last = training.loader.state_dict()["step"] == len(training.loader)
        wanted = _step(training, batch, is_last)
        if trace is not None:
            trace.after_step()
        if wanted.stop or (wanted.save and not is_last):
            _save_within_epoch(training)
        if wanted.stop:
            training.reporter.progress(training.standing, force=True)
            raise Interrupted(f"Stopped after step {training.step}; the checkpoint there is complete.")
        if error := halting.stuck(training):
            _save_within_epoch(training)
            raise error
    _tell_delivered(training, first_step)
    training.evaluation_due = True


def _step(training: Training, batch: Batch, is_last: bool) -> Wishes:
    """A step, its checks, its update, its report; what rank 0 wanted to happen after it."""
    training.sample_numbers = batch.sample_numbers.numpy()
    step, wanted = told(train_step(training, batch, *_wishes(training, is_last)))
    norms = StepNorms(training.network, training.context.partners) if wanted.report else None
    halting.refuse_diverged_step(training, batch, step.loss, norms)
    training.rates = training.next_rates
    training.rule.step(training.rates)
    if norms is not None:
        norms.after_update()
    training.step += 1
    training.epoch_sums.add(step)
    training.recent_losses.add(step.loss / step.samples)
    training.reporter.after_step(step, training.standing, norms)
    return wanted


def _wishes(training: Training, is_last: bool) -> Wishes:
    """What rank 0 wants to happen after the step; the epoch's last one is always reported."""
    if training.run is None:
        return Wishes()
    save_due = time.monotonic() - training.saved_at >= 60 * training.settings.save_minutes
    return Wishes(training.run.stop_requested(), save_due, training.reporter.due() or is_last)


def _save_within_epoch(training: Training) -> None:
    """Write a checkpoint, unless the weights have gone; its time does not count as training."""
    started = time.monotonic()
    halting.refuse_diverged_weights(training)
    save_checkpoint(training)
    training.reporter.leave_out(time.monotonic() - started)


def _tell_delivered(training: Training, first_step: int) -> None:
    """Prove that the epoch was delivered whole, and say so."""
    found, num_replaced = delivered(training.loader, first_step, training.context.device, training.context.replicas)
    if training.run is not None:
        words = f", {num_replaced:,} of them in place of damaged ones" if num_replaced else ""
        training.run.event(
            "delivered",
            f"Epoch {training.epoch + 1}: {found.count:,} samples were delivered, each as the order asks{words}.",
            epoch=training.epoch, first_step=first_step, num_samples=found.count, digest=f"{found.digest:016x}",
            num_replaced=num_replaced,
        )  # fmt: skip


def _finish_epoch(training: Training) -> None:
    """Evaluate, adjust the schedule, write the epoch's checkpoint."""
    if _has_validation(training):
        training.errors = _evaluate(training)
        halting.refuse_diverged_evaluation(training, training.errors.loss)
        training.schedule = after_evaluation(training.recipe.rule, training.schedule, training.errors.top1_error)
        training.reporter.evaluated(training.standing, training.errors)
    training.epoch += 1
    training.epoch_sums = Sums()
    training.evaluation_due = False
    training.loader.set_epoch(training.epoch)
    save_checkpoint(training)
    if training.run is not None:
        training.run.flush()  # an epoch is news: it must not wait for its segment to be closed
    training.reporter.restart()
    training.reporter.progress(training.standing, force=True)


def _has_validation(training: Training) -> bool:
    return "val" in training.dataset.split_names


def _evaluate(training: Training) -> Errors:
    context = training.context
    loading = training.recipe.loader.model_copy(
        update={"threads": context.threads, "global_batch": EVALUATION_BATCH * context.num_replicas}
    )
    with Loader(
        training.dataset, loading, split="val", rank=context.replica, world_size=context.num_replicas,
        device=context.device, views=1,
    ) as loader:  # fmt: skip
        return evaluate(
            training.network, loader, training.recipe.precision, group=context.replicas,
            before_batch=halting.stop_in_evaluation(training),
        )  # fmt: skip


def _trace(training: Training) -> Any:
    """A trace of the first steps if one is wanted, as a context that closes it."""
    if training.run is None or not training.settings.profile:
        return nullcontext()
    steps = training.recipe.epochs * len(training.loader) - training.step
    return closing(Trace(training.run, steps))


def _facts(training: Training, seconds: float, samples: int) -> dict[str, Any]:
    errors = training.errors.to_json() if training.errors else {}
    return {
        "epochs": training.epoch,
        "steps": training.step,
        "top1_error": errors.get("top1_error"),
        "top5_error": errors.get("top5_error"),
        "loss": errors.get("loss"),
        "num_samples": errors.get("num_samples"),
        "num_parameters": training.num_parameters,
        "world_size": training.context.world_size,
        "device": training.context.device.type,
        "seconds": round(seconds, 2),
        "samples_per_s": round(samples / seconds, 2) if seconds else 0.0,
    }
