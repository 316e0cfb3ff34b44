"""What a network makes of single pictures (figure 4 of the paper): its five best labels, and the training pictures
that it finds most alike.

In: a dataset and a run. Out: rows of samples, probabilities, distances. Alike means near in Euclidean distance of the
last hidden layer's outputs. Only a batch of these is held at a time, however large the training split is.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ingest.dataset import Dataset
from ingest.errors import RefusedError
from trainer.ensemble import Member, open_members
from trainer.evaluate import pick_device
from trainer.precision import computing
from trainer.settings import EvaluateSettings

NUM_LABELLED, NUM_SEARCHED, NEAREST, BEST = 8, 5, 6, 5
Numbered = tuple[tuple[int, float], ...]
OnProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class Labelled:
    """A picture, its label, and the best classes as (label, probability), likeliest first."""

    row: int
    label: int
    best: Numbered


@dataclass(frozen=True)
class Searched:
    """A picture, its label, and the training pictures most alike as (row, distance), nearest first."""

    row: int
    label: int
    nearest: Numbered


@dataclass(frozen=True)
class Retrieval:
    """A network's answers; rows of pictures are of `split`, those of their neighbours of train."""

    split: str
    run: str
    epoch: int
    labelled: tuple[Labelled, ...]
    searched: tuple[Searched, ...]


def retrieve(
    dataset: Dataset, run_folder: str, settings: EvaluateSettings, seed: int = 0, on_progress: OnProgress | None = None
) -> Retrieval:
    """Ask a run's newest checkpoint about 8 + 5 pictures that the seed chooses: centre views, in the run's precision.

    Of `settings` count split, batch and device. Raises RefusedError (no checkpoint, other classes, no labels, no
    training split) and what Loader raises.
    """
    split = dataset.split(settings.split)
    if (split.label < 0).any():
        raise RefusedError(f"{dataset.uri}: split {split.name} has no labels to show; take another --split")
    network = _Trained(open_members([run_folder], dataset)[0], dataset, settings)
    rows = chosen_rows(split.label, NUM_LABELLED + NUM_SEARCHED, seed)
    said, features = network.answers(split.name, rows)
    labelled = tuple(Labelled(row, int(split.label[row]), best_classes(said[row])) for row in rows[:NUM_LABELLED])
    asked = rows[NUM_LABELLED:]
    nearest = Nearest([features[row] for row in asked], NEAREST)
    for numbers, seen in network.features("train"):
        nearest.see(numbers, seen)
        if on_progress is not None:
            on_progress(nearest.num_seen, dataset.split("train").num_samples)
    searched = tuple(Searched(row, int(split.label[row]), near) for row, near in zip(asked, nearest.found, strict=True))
    return Retrieval(split.name, network.member.uri, int(network.member.state["epoch"]), labelled, searched)


class Nearest:
    """The `k` nearest of the features that are shown to it, for each query; of equal ones the lower row."""

    def __init__(self, queries: Sequence[torch.Tensor], k: int) -> None:
        self._queries, self._k = [query.double() for query in queries], k
        self._best: list[list[tuple[float, int]]] = [[] for _ in queries]
        self.num_seen = 0

    def see(self, numbers: torch.Tensor, features: torch.Tensor) -> None:
        """`features`: float (n, units) of the samples `numbers`, int64 (n,)."""
        features = features.double()
        for i, query in enumerate(self._queries):
            distances = (features - query).square().sum(dim=1).sqrt()
            found = zip(distances.tolist(), numbers.tolist(), strict=True)
            self._best[i] = sorted([*self._best[i], *found])[: self._k]
        self.num_seen += len(numbers)

    @property
    def found(self) -> list[Numbered]:
        """For each query (row, distance) of the nearest so far, nearest first."""
        return [tuple((row, distance) for distance, row in best) for best in self._best]


def chosen_rows(labels: npt.NDArray[np.int32], num: int, seed: int) -> list[int]:
    """`num` rows in an order that the seed gives, each of another class while there are classes; all if there are fewer."""
    permuted = np.random.default_rng(seed).permutation(len(labels))
    seen: dict[int, int] = {}
    rounds = []
    for row in permuted.tolist():
        rounds.append(seen.setdefault(int(labels[row]), 0))
        seen[int(labels[row])] += 1
    return [int(row) for row in permuted[np.argsort(rounds, kind="stable")][:num]]


def best_classes(probabilities: torch.Tensor) -> Numbered:
    """(label, probability) of the five likeliest classes of float (classes,), likeliest first."""
    found = probabilities.topk(min(BEST, len(probabilities)))
    return tuple(zip(found.indices.tolist(), found.values.tolist(), strict=True))


class _Trained:
    """A run's network, shown the centre views of a dataset's samples as it has to see them."""

    def __init__(self, member: Member, dataset: Dataset, settings: EvaluateSettings) -> None:
        self.member, self._dataset = member, dataset
        self._settings = settings.model_copy(update={"views": 1})
        self._device = pick_device(settings.device)
        self._network: Any = member.network(self._device)

    def answers(self, split: str, rows: Sequence[int]) -> tuple[dict[int, torch.Tensor], dict[int, torch.Tensor]]:
        """By row: probabilities float64 (classes,), and features float32 (units,)."""
        said, features = {}, {}
        for numbers, images in self._batches(split):
            for i, row in enumerate(numbers.tolist()):
                if row in rows:
                    said[row] = self._asked(self._network, images[i : i + 1])[0].double().softmax(dim=0)
                    features[row] = self._asked(self._network.features, images[i : i + 1])[0]
        return said, features

    def features(self, split: str) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Sample numbers int64 (n,) and features float32 (n, units), batch by batch, over a split."""
        for numbers, images in self._batches(split):
            yield numbers, self._asked(self._network.features, images)

    def _batches(self, split: str) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        settings = self._settings.model_copy(update={"split": split})
        with self.member.loader(self._dataset, settings, self._device) as loader:
            for batch in loader:
                yield batch.sample_numbers, batch.images.to(self._device)

    def _asked(self, function: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode(), computing(self.member.recipe.precision, self._device):
            return function(images)
