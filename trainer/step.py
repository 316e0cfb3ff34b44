"""One step of training: a rank's rows to the mean gradients of the global batch, and what the ranks tell each other."""

from collections.abc import Iterator
from typing import NamedTuple

import torch.nn.functional as F

from augment.loader import Batch
from trainer.dropout import DropoutKey
from trainer.precision import computing
from trainer.reporter import StepSums
from trainer.training import CORRECT, LOSS, REPORT, ROWS, SAVE, STOP, WAITED, Training


class Wishes(NamedTuple):
    """What rank 0 wants to happen after the step: a stop, a checkpoint because one is due, a report."""

    stop: bool = False
    save: bool = False
    report: bool = False


def train_step(
    training: Training, batch: Batch, stop: bool = False, save: bool = False, report: bool = False
) -> list[float]:
    """Gradient means of one global batch into the parameters' `.grad`.

    Returns, summed over ranks: loss, correct predictions, rows, wishes to stop, wishes for a checkpoint, wishes for a
    report; then, of each rank, the seconds that it waited for data.
    """
    gradients, n = training.gradients, len(batch.labels)
    gradients.zero()
    key = DropoutKey(training.recipe.seed, training.step, batch.places.numpy())
    for first, last, is_last in micro_batches(n, training.settings.micro_batch or max(n, 1)):
        if is_last:
            gradients.arm()
        _accumulate(training, batch, key.part(first, last), first, last)
    for place, value in ((ROWS, n), (STOP, stop), (SAVE, save), (REPORT, report)):
        gradients.extras[place] = float(value)
    gradients.extras[WAITED + training.context.rank] = training.waiting.new_seconds()
    sums = gradients.reduce()
    for place in (LOSS, CORRECT, ROWS):  # of each copy of the network, told by every worker that holds a part of it
        sums[place] *= training.context.num_replicas / training.context.world_size
    gradients.divide(max(sums[ROWS], 1.0))
    return sums


def told(sums: list[float]) -> tuple[StepSums, Wishes]:
    """What `train_step` returned, by name."""
    wanted = Wishes(*(sums[place] > 0 for place in (STOP, SAVE, REPORT)))
    waits = tuple(sums[WAITED:])
    return StepSums(sums[LOSS], sums[CORRECT], sums[ROWS], max(waits), waits), wanted


def micro_batches(n: int, size: int) -> Iterator[tuple[int, int, bool]]:
    """(first, last, whether it is the last one) of each micro-batch."""
    for first in range(0, n, size):
        last = min(first + size, n)
        yield first, last, last == n


def _accumulate(training: Training, batch: Batch, key: DropoutKey, first: int, last: int) -> None:
    """Add the gradients of rows first .. last - 1 (sums, not means)."""
    images, labels = batch.images[first:last], batch.labels[first:last]
    with computing(training.recipe.precision, training.context.device):
        logits = training.network(images, dropout=key)
    loss = F.cross_entropy(logits, labels, reduction="sum")
    loss.backward()  # type: ignore[no-untyped-call]
    training.gradients.extras[LOSS] += loss.detach().double()
    training.gradients.extras[CORRECT] += (logits.argmax(dim=1) == labels).sum()
