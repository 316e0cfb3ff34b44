"""Ends a run that has gone wrong, on every rank alike: all know the same sums, and say the same samples.

Checked before a step changes the weights: the loss, and in reported steps the gradient. Checked before a checkpoint is
written: the weights, which a gradient between two reports may have spoilt. So no checkpoint holds a diverged step.
"""

import itertools
import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from augment.loader import Batch
from ingest.errors import Interrupted, TenchError
from trainer import checkpoint
from trainer.dropout import DropoutKey
from trainer.guards import MAX_KEYS, Divergence, stuck_words, suspects
from trainer.norms import StepNorms, all_finite
from trainer.precision import computing
from trainer.reduce import sum_over_ranks
from trainer.step import micro_batches
from trainer.training import Training

LOOK_EVERY = 4
"""Batches of an evaluation between two looks whether the run is to stop."""

Losses = npt.NDArray[np.float64]


def refuse_diverged_step(training: Training, batch: Batch, loss: float, norms: StepNorms | None) -> None:
    """Raise TenchError if the update that is next would not be finite. Every rank takes part, or none."""
    if not math.isfinite(loss):
        found = f"the loss is {loss}"
    elif norms is not None and not math.isfinite(norms.gradient_norm):
        found = "the loss is finite, its gradient is not"
    else:
        return
    raise _diverged(training, training.step + 1, found, _sample_losses(training, batch))


def refuse_diverged_weights(training: Training) -> None:
    """Raise TenchError if a weight or velocity is not finite. Every rank takes part, or none."""
    tensors = [*training.network.parameters(), *training.rule.state_dict().values()]
    if not all_finite(tensors, training.context.partners):
        raise _diverged(training, training.step, "the weights after it are not finite", None)


def refuse_diverged_evaluation(training: Training, loss: float) -> None:
    """Raise TenchError if the loss of the evaluation is not finite; the checkpoint before it goes. Every rank takes part,
    or none."""
    if not math.isfinite(loss):
        if training.run is not None:
            checkpoint.remove_unevaluated(training.run.place)
        raise _diverged(training, training.step, f"the loss is {loss}", None)


def stop_in_evaluation(training: Training) -> Callable[[], None]:
    """To be called before each batch of an evaluation by every rank: raises Interrupted on all of them before the same
    batch, once rank 0 was asked to stop."""
    batches = itertools.count()

    def look() -> None:
        if next(batches) % LOOK_EVERY:
            return
        asked = training.run is not None and training.run.stop_requested()
        if sum(sum_over_ranks([float(asked)], training.context.device)):
            raise Interrupted(
                f"Stopped in the evaluation after step {training.step}; the checkpoint there is complete, and a resume "
                "evaluates first."
            )

    return look


def stuck(training: Training) -> TenchError | None:
    """The error that ends the run if the network has learnt nothing in all its steps; the same on every rank."""
    classes, after = training.recipe.network.num_classes, training.settings.stuck_after
    mean = training.recent_losses.stuck(training.step, after, classes)
    if mean is None:
        return None
    words = stuck_words(training.step, mean, classes, after, training.recipe.rule.learning_rate)
    if training.run is not None:
        training.run.event("stuck", words, step=training.step, loss=mean)
    return TenchError(words)


def _diverged(training: Training, step: int, found: str, losses: Losses | None) -> TenchError:
    """The error that every rank raises, once the ranks have told each other which samples they had."""
    num_wrong, num_samples, numbers = _over_ranks(training, losses)
    keys = tuple(training.loader.split.key(number) for number in numbers)
    known = None if losses is None else num_wrong
    divergence = Divergence(step, found, known, num_samples, keys, training.good_checkpoint)
    if training.run is not None:
        training.run.event(
            "diverged", divergence.words, step=step, found=found, keys=keys, checkpoint=training.good_checkpoint
        )
    return TenchError(divergence.words)


def _over_ranks(training: Training, losses: Losses | None) -> tuple[int, int, list[int]]:
    """Of the step's samples of all ranks: how many have a loss that is not finite, how many there are, and the numbers
    of ten of the former, or of the latter if there are none."""
    own = training.sample_numbers
    wrong = 0 if losses is None else int((~np.isfinite(losses)).sum())
    named = suspects(losses.tolist() if losses is not None else [0.0] * len(own), own.tolist())
    context = training.context
    table = np.zeros((context.num_replicas, 2 + MAX_KEYS))
    table[context.replica, : 2 + len(named)] = [wrong, len(own), *(number + 1 for number in named)]
    table = np.reshape(sum_over_ranks(table.ravel().tolist(), context.device, context.replicas), table.shape)
    num_wrong, num_samples = int(table[:, 0].sum()), int(table[:, 1].sum())
    chosen = table[table[:, 0] > 0] if num_wrong else table
    return num_wrong, num_samples, [int(number) - 1 for number in chosen[:, 2:].ravel() if number][:MAX_KEYS]


def _sample_losses(training: Training, batch: Batch) -> Losses:
    """Loss of each sample of this rank's share, with the weights and the masks of the step."""
    key, n = DropoutKey(training.recipe.seed, training.step, batch.places.numpy()), len(batch.labels)
    losses = [np.zeros(0)]
    for first, last, _ in micro_batches(n, training.settings.micro_batch or max(n, 1)):
        with torch.no_grad(), computing(training.recipe.precision, training.context.device):
            logits = training.network(batch.images[first:last], dropout=key.part(first, last))
        losses.append(F.cross_entropy(logits, batch.labels[first:last], reduction="none").double().cpu().numpy())
    return np.concatenate(losses)
