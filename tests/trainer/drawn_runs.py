"""Folders of training runs written by hand, small and quick: events, evaluations and a checkpoint of a tiny network."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from augment.settings import LoaderSettings
from ingest.dataset import Dataset
from ingest.progress import RunWriter
from ingest.storage import Place
from trainer import checkpoint
from trainer.networks import Network, build
from trainer.settings import TrainSettings
from trainer.switches import NetworkSettings, Recipe, RuleSettings

Metrics = tuple[int, int, int, float]
"""Step, epoch from 0, samples, training error."""


def write_run(folder: Path, errors: Sequence[float], *, rate: float = 0.01, activation: str = "relu") -> Path:
    """A run whose epochs of 100 samples in 4 steps had these training errors; its validation errors are half of them."""
    run = RunWriter.begin(Place(folder), "train", {})
    for epoch, error in enumerate(errors):
        for step in range(epoch * 4 + 1, epoch * 4 + 5):
            metrics(run, (step, epoch, 25, error), rate)
        run.event("delivered", "An epoch.", epoch=epoch, first_step=0, num_samples=100)
        run.event("evaluated", "Errors.", epoch=epoch, step=4 * epoch + 4, **half(error))
    run.finish("succeeded", 0)
    network = {"architecture": "cifar", "activation": activation}
    state = {
        "step": 4 * len(errors), "epoch": len(errors), "dataset_id": "d" * 64, "classes": ["n1", "n2"],
        "recipe": {"network": network, "rule": {"learning_rate": rate}},
    }  # fmt: skip
    weights = {"conv1.weight": torch.linspace(-1, 1, 32 * 75).view(32, 3, 5, 5)}
    checkpoint.save(run.place, 1, state, weights, {})
    return folder


def metrics(run: RunWriter, what: Metrics, rate: float = 0.01, loss: float = 2.0) -> None:
    """One "metrics" event."""
    step, epoch, samples, error = what
    run.event(
        "metrics", "A step.", step=step, epoch=epoch, samples=samples, loss=loss, train_top1_error=error,
        learning_rate=rate, samples_per_s=10.0, data_wait_share=0.0,
    )  # fmt: skip


def half(error: float) -> dict[str, Any]:
    return {"top1_error": error / 2, "top5_error": error / 4, "loss": 1.0, "num_samples": 50}


def write_evaluation(run_folder: Path, name: str, state: str = "succeeded", **facts: Any) -> None:
    """What `tench evaluate` leaves in a run's folder. `name` says when: later names are later."""
    place = run_folder / "evaluations" / name
    (place / "result").mkdir(parents=True)
    (place / "attempts").mkdir()
    (place / "attempts" / "0001.json").write_text("{}")
    result = {"attempt": 1, "at": 1e10 + float(name), "state": state, "exit_code": 0, "facts": facts}
    (place / "result" / "0001.json").write_text(json.dumps(result))


def write_tiny_network(folder: Path, dataset: str, side: int = 32) -> Network:
    """A run of no steps: the CIFAR network at its initial weights, crops of `side` pixels, the dataset's classes."""
    opened = Dataset.open(dataset)
    recipe = Recipe(
        preset="cifar", epochs=1, precision="fp32", seed=5,
        network=NetworkSettings(
            architecture="cifar", widths=(32, 32, 64), hidden=(), columns=1, side=side, num_classes=opened.num_classes,
            init="he",
        ),
        rule=RuleSettings(), loader=LoaderSettings(crop=side, mean="channel", colour="none", divide_test=60.0),
    )  # fmt: skip
    network = build(recipe.network, recipe.seed)
    run = RunWriter.begin(Place(folder), "train", {"settings": TrainSettings().model_dump(mode="json")})
    run.flush()
    state = {
        "step": 7, "epoch": 3, "dataset_id": opened.dataset_id, "classes": [c.wnid for c in opened.classes],
        "recipe": recipe.model_dump(mode="json"),
    }  # fmt: skip
    checkpoint.save(run.place, 1, state, network.state_dict(), {})
    return network
