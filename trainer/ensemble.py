"""Trained runs as members of an evaluation: their newest checkpoints, what they say of a split, and the mean of that.

Each member is fed by its own recipe's loader, since members may differ in crop, mean and division. One network at a
time is in use; between members, the sums of the probabilities are kept as logarithms.
"""

import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from augment.loader import Loader
from ingest.dataset import Dataset
from ingest.errors import RefusedError, UsageError
from ingest.storage import Place
from trainer import checkpoint
from trainer.networks import build
from trainer.precision import computing
from trainer.scores import mean_over_views
from trainer.settings import EvaluateSettings
from trainer.switches import Precision, Recipe

LARGEST_IN_MEMORY = 2 * 10**9
"""Bytes of the sums between members; larger ones go to a temporary file."""


class Said(NamedTuple):
    """What a network says of a batch: int64 (n,) sample numbers and labels; float64 (n, classes) log probabilities."""

    numbers: torch.Tensor
    labels: torch.Tensor
    log_probabilities: torch.Tensor


@dataclass(frozen=True)
class Member:
    """A run's newest whole checkpoint."""

    uri: str
    path: str
    state: dict[str, Any]
    recipe: Recipe
    weights: dict[str, torch.Tensor]

    def network(self, device: torch.device) -> nn.Module:
        """The trained network, on a device."""
        network = build(self.recipe.network, self.recipe.seed).to(device)
        network.load_state_dict(self.weights)
        return network

    def loader(self, dataset: Dataset, settings: EvaluateSettings, device: torch.device) -> Loader:
        """The batches of a split as this member has to see them. Raises what the loader raises, naming the run."""
        batch = max(1, settings.batch // settings.views)
        # A sample in place of a damaged one would be counted twice.
        loading = self.recipe.loader.model_copy(update={"global_batch": batch, "damaged": "stop"})
        try:
            return Loader(dataset, loading, split=settings.split, device=device, views=settings.views)
        except (RefusedError, UsageError) as error:
            raise type(error)(f"{self.uri}: {error.message}") from error

    def facts(self) -> dict[str, Any]:
        """Which network it is."""
        facts = {"run": self.uri, "preset": self.recipe.preset, "checkpoint": self.path}
        return facts | {name: self.state[name] for name in ("epoch", "step")}


def open_members(runs: Sequence[str], dataset: Dataset) -> list[Member]:
    """The newest checkpoints of run folders.

    Raises RefusedError (no checkpoint, other classes than the dataset's, a run named twice), DamageError.
    """
    members = [_open(Place(run), dataset) for run in runs]
    seen: set[str] = set()
    for member in members:
        if member.uri in seen:
            raise RefusedError(f"{member.uri}: is named twice; an ensemble counts each run once")
        seen.add(member.uri)
    return members


def said_of(
    network: nn.Module, loader: Loader, precision: Precision, before_batch: Callable[[], None] | None = None
) -> Iterator[Said]:
    """What a network says of each sample of the loader's split that is this rank's, averaged over the views.

    `before_batch` is called before each of the loader's batches, one without samples for this rank included.
    """
    device = next(network.parameters()).device
    for images, labels, numbers, _ in loader:
        if before_batch is not None:
            before_batch()
        if len(labels):
            said = log_probabilities(network, images.to(device), precision)
            yield Said(numbers, labels.to(device), said)


def log_probabilities(network: nn.Module, images: torch.Tensor, precision: Precision) -> torch.Tensor:
    """Pictures (n, 3, s, s), or (n, views, 3, s, s) -> float64 (n, classes), views averaged as probabilities."""
    views = images.shape[1] if images.dim() == 5 else 1
    with torch.inference_mode(), computing(precision, images.device):
        logits = network(images.flatten(0, 1) if views > 1 else images)
    return mean_over_views(logits, views)


class LogSums:
    """What several networks say together: logs of sums of probabilities, float32 (samples, classes)."""

    def __init__(self, num_samples: int, num_classes: int) -> None:
        self._shape = (num_samples, num_classes)
        self._sums: npt.NDArray[np.float32] | None = None
        self.num_networks = 0
        """Networks whose probabilities are in the sums."""

    def add(self, network: Iterable[Said]) -> None:
        """Add what a network says of every sample."""
        if self._sums is None:
            self._sums = self._room()
        for said in network:
            self._sums[said.numbers.numpy()] = self._plus(said).cpu().numpy()
        self.num_networks += 1

    def mean_with(self, said: Said) -> Said:
        """The mean of the networks so far and one more, for the samples of a batch."""
        return said._replace(log_probabilities=self._plus(said) - math.log(self.num_networks + 1))

    def _plus(self, said: Said) -> torch.Tensor:
        if self._sums is None or not self.num_networks:
            return said.log_probabilities
        before = torch.from_numpy(self._sums[said.numbers.numpy()]).to(said.log_probabilities.device)
        return torch.logaddexp(before.double(), said.log_probabilities)

    def _room(self) -> npt.NDArray[np.float32]:
        if 4 * math.prod(self._shape) <= LARGEST_IN_MEMORY:
            return np.empty(self._shape, np.float32)
        # A file without a name: it is gone with the process, however that ends.
        return np.memmap(tempfile.TemporaryFile(), np.float32, "w+", shape=self._shape)


def _open(place: Place, dataset: Dataset) -> Member:
    found = checkpoint.needed(place)
    if found.state["classes"] != [c.wnid for c in dataset.classes]:
        raise RefusedError(
            f"{place.uri}: was trained on {len(found.state['classes'])} classes that are not the "
            f"{dataset.num_classes} of {dataset.uri}; evaluate with a dataset of the same classes"
        )
    return Member(place.uri, found.path, found.state, Recipe.model_validate(found.state["recipe"]), found.network)
