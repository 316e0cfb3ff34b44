"""Scores of classes and the right labels to errors: pure functions over tensors, wherever these lie.

A sample's credit at k is the share of being right that it gets: 1 if its label is among the k best classes. Where
classes have equal scores, sources differ (`Ties`): the 2012 source shares the credit among the equals, Caffe takes
every equal as better than the label, a sort puts the equals into some order (here: the lower label first).
"""

import math
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch

from trainer.settings import Ties

TOP = 5


@dataclass(frozen=True)
class Errors:
    """Shares of samples (0 to 1) whose label is not the first, or not among the first five; mean loss in nats."""

    top1_error: float
    top5_error: float
    loss: float
    num_samples: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Standing(NamedTuple):
    """How a label stands among the scores of its sample; int64 (n,). A score that is not a number counts as better."""

    better: torch.Tensor
    """Classes with a higher score."""
    equal: torch.Tensor
    """Other classes with the same score."""
    equal_before: torch.Tensor
    """Those of the equal ones that have a lower label."""


def standing(scores: torch.Tensor, labels: torch.Tensor) -> Standing:
    """Scores (n, classes) of any floating type, labels int64 (n,)."""
    own = scores.gather(1, labels[:, None])
    better = (~(scores <= own)).sum(dim=1)
    same = scores == own
    before = torch.arange(scores.shape[1], device=scores.device) < labels[:, None]
    # The label itself is among the same, unless its score is not a number.
    return Standing(better, (same.sum(dim=1) - 1).clamp(min=0), (same & before).sum(dim=1))


def credit(where: Standing, k: int, ties: Ties) -> torch.Tensor:
    """float64 (n,), 0 to 1: what each sample gets when k classes may be named."""
    if ties == "better":
        return (where.better + where.equal < k).double()
    if ties == "order":
        return (where.better + where.equal_before < k).double()
    free = (k - where.better).clamp(min=0)
    return (free.double() / (where.equal + 1)).clamp(max=1.0)


def best(scores: torch.Tensor, k: int = TOP) -> torch.Tensor:
    """int64 (n, at most k): the best classes, by falling score; of equal ones the lower label first."""
    return scores.sort(dim=1, descending=True, stable=True).indices[:, :k]


def loss(log_probabilities: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """(n,): minus the log of the label's probability, in nats."""
    return -log_probabilities.gather(1, labels[:, None])[:, 0]


def mean_over_views(logits: torch.Tensor, views: int) -> torch.Tensor:
    """Logits (n * views, classes), the views of a sample together -> float64 (n, classes): log of mean probability.

    In logarithms throughout, so that probabilities too small for any number keep their order.
    """
    single = torch.log_softmax(logits.double(), dim=1)
    if views == 1:
        return single
    return torch.logsumexp(single.view(-1, views, single.shape[1]), dim=1) - math.log(views)
