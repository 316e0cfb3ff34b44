"""What an evaluation finds, sample by sample, and the tables that are made of it: errors, classes, confusions.

Everything is kept by sample number, so that no figure depends on the size or the order of the batches.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ingest.errors import TenchError
from ingest.manifest import ClassName
from trainer.ensemble import Said
from trainer.scores import TOP, Errors, best, credit, loss, standing
from trainer.settings import Ties

NOT_SEEN = -1


class Findings:
    """The best classes of each sample of a split, and, where labels are known, what each sample counts for.

    `labels` int64 (n,), -1 where unknown. `best` int32 and `probabilities` float32 (n, at most 5), by falling
    probability; `credits` float64 (n, 2) at 1 and at 5, `losses` float64 (n,) in nats: NaN without labels.
    """

    def __init__(self, labels: npt.NDArray[np.int32], num_classes: int, ties: Ties) -> None:
        num_samples, top = len(labels), min(TOP, num_classes)
        self.labels = labels.astype(np.int64)
        self.is_labelled = bool((labels >= 0).all())
        self.best = np.full((num_samples, top), NOT_SEEN, np.int32)
        self.probabilities = np.zeros((num_samples, top), np.float32)
        self.credits = np.full((num_samples, 2), np.nan)
        self.losses = np.full(num_samples, np.nan)
        self._ties = ties

    def add(self, said: Said) -> None:
        """Note what is said of some samples."""
        rows, scores = said.numbers.numpy(), said.log_probabilities
        places = best(scores)
        self.best[rows] = places.cpu().numpy()
        self.probabilities[rows] = scores.gather(1, places).exp().cpu().numpy()
        if self.is_labelled:
            where = standing(scores, said.labels)
            self.credits[rows] = np.stack([credit(where, k, self._ties).cpu().numpy() for k in (1, TOP)], axis=1)
            self.losses[rows] = loss(scores, said.labels).cpu().numpy()

    def add_all(self, batches: Iterable[Said]) -> None:
        """Note what is said of the whole split."""
        for said in batches:
            self.add(said)

    def errors(self) -> Errors | None:
        """Over the whole split; None without labels.

        Raises TenchError if a network answers with something that is no number.
        """
        assert (self.best[:, 0] != NOT_SEEN).all(), "a sample of the split was not delivered"
        if not self.is_labelled:
            return None
        mean_loss = float(self.losses.mean())
        if not np.isfinite(mean_loss):
            raise TenchError(
                f"the mean loss is {mean_loss}: the network answers with something that is no number, since its run "
                "diverged; evaluate an earlier run, or train anew with a lower --learning-rate"
            )
        top1, top5 = 1 - self.credits.mean(axis=0)
        return Errors(float(top1), float(top5), mean_loss, len(self.labels))


def class_table(found: Findings, classes: Sequence[ClassName]) -> list[dict[str, Any]]:
    """A row a class, the worst first (by top-1, then top-5 error); classes without samples last, their errors None."""
    counts = np.bincount(found.labels, minlength=len(classes))
    right = np.stack([np.bincount(found.labels, column, len(classes)) for column in found.credits.T], axis=1)
    errors = 1 - right / np.maximum(counts, 1)[:, None]
    order = np.lexsort((-errors[:, 1], -errors[:, 0], counts == 0))
    return [
        {
            "label": label,
            "wnid": classes[label].wnid,
            "words": classes[label].words,
            "num_samples": int(counts[label]),
            "top1_error": float(errors[label, 0]) if counts[label] else None,
            "top5_error": float(errors[label, 1]) if counts[label] else None,
        }
        for label in order.tolist()
    ]


def confusions(found: Findings, classes: Sequence[ClassName], most: int) -> list[dict[str, Any]]:
    """The pairs of a label and another class that is taken for it, the most frequent first, then by label."""
    predicted = found.best[:, 0].astype(np.int64)
    wrong = predicted != found.labels
    pairs, counts = np.unique(found.labels[wrong] * len(classes) + predicted[wrong], return_counts=True)
    chosen = np.argsort(-counts, kind="stable")[:most]
    return [
        {
            "label": pair // len(classes),
            "wnid": classes[pair // len(classes)].wnid,
            "words": classes[pair // len(classes)].words,
            "predicted_label": pair % len(classes),
            "predicted_wnid": classes[pair % len(classes)].wnid,
            "predicted_words": classes[pair % len(classes)].words,
            "count": count,
        }
        for pair, count in zip(pairs[chosen].tolist(), counts[chosen].tolist(), strict=True)
    ]
