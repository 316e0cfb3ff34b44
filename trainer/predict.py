"""What a trained run takes pictures of any origin for: its best classes, with their probabilities."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from augment.loader import views_of
from ingest.dataset import Dataset
from ingest.errors import RefusedError
from ingest.progress import RunReader
from ingest.storage import Place
from trainer.ensemble import Member, log_probabilities, open_members
from trainer.evaluate import pick_device
from trainer.scores import TOP, best
from trainer.settings import PredictSettings


@dataclass(frozen=True)
class Named:
    """A class that a picture may show, and the probability (0 to 1) that the network gives it."""

    label: int
    wnid: str
    words: str
    probability: float


class Predictor:
    """The newest checkpoint of a run, with the dataset whose mean and classes it works by.

    Raises RefusedError (no checkpoint, no dataset, one of other classes), DamageError.
    """

    def __init__(self, run_folder: str, dataset: str | None, settings: PredictSettings) -> None:
        self.dataset = Dataset.open(dataset) if dataset else _recorded_dataset(Place(run_folder))
        (self.member,) = open_members([run_folder], self.dataset)
        if not dataset:
            _refuse_replaced(self.member, self.dataset)
        self.views, self._device = settings.views, pick_device(settings.device)
        self._network = self.member.network(self._device)

    def best(self, pixels: npt.NDArray[np.uint8]) -> list[Named]:
        """The best classes of a picture as the dataset would store it, uint8 (side, side, 3) RGB; at most five."""
        recipe = self.member.recipe
        images = views_of(pixels[None], self.dataset, recipe.loader, self.views, self._device)
        said = log_probabilities(self._network, images, recipe.precision)
        places = best(said, TOP)[0]
        chances = said[0, places].exp()
        classes = self.dataset.classes
        return [
            Named(label, classes[label].wnid, classes[label].words, chance)
            for label, chance in zip(places.tolist(), chances.tolist(), strict=True)
        ]

    def facts(self) -> dict[str, Any]:
        """Which network answers, by which dataset's mean, from how many views."""
        return {**self.member.facts(), "dataset": self.dataset.uri, "views": self.views}


def _recorded_dataset(run: Place) -> Dataset:
    """The dataset that a run was trained on, where its request says. Raises RefusedError if it is there no longer."""
    try:
        uri = str(RunReader(run).request()["settings"]["dataset"])
    except (FileNotFoundError, KeyError):
        raise RefusedError(f"{run.uri}: does not say which dataset it was trained on; give --dataset") from None
    try:
        return Dataset.open(uri)
    except RefusedError as error:
        raise RefusedError(
            f"{run.uri}: was trained on {uri}, and that cannot be opened ({error.message}). Its mean image and classes "
            "are needed: give --dataset, a dataset of the same classes"
        ) from None


def _refuse_replaced(member: Member, dataset: Dataset) -> None:
    """Raise RefusedError if the recorded place holds other data now: its mean image would be another."""
    if member.state["content_id"] != dataset.content_id:
        raise RefusedError(
            f"{dataset.uri}: holds other data now than when {member.uri} was trained on it; give --dataset with the place "
            "of the old one, or with this one if its mean image will do"
        )
