"""Presets: rows of switches, nothing more; and what of a recipe does not fit a dataset, in words."""

from typing import Any

from augment.settings import LoaderSettings
from ingest.dataset import Dataset
from trainer.settings import NetworkSettings, Recipe, RuleSettings, TrainSettings

MUSEUM_DIVISIONS = (25, 51, 79)
"""Epochs at which the author of the released network divided the rates of its 2012 run."""

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "museum145": {
        "run": {"epochs": 91, "precision": "fp32"},
        "network": {},
        "rule": {"schedule": "epochs", "divide_at": MUSEUM_DIVISIONS, "lower_biases": False},
        "loader": {
            "order": "fixed", "tail": "short", "mean": "centre", "colour": "museum", "colour_until_epoch": 67,
            "crop_chunk": 32, "divide": 1.1,
        },
    },
    "paper": {
        "run": {"epochs": 90, "precision": "fp32"},
        "network": {
            "norm_first": False, "spatial_norm": False, "lrn_factor": 1e-4, "lrn_span": "layer", "init": "paper",
        },
        "rule": {"schedule": "plateau", "bias_rate_factor": 1.0},
        "loader": {"order": "permuted", "mean": "centre", "colour": "paper"},
    },
    "caffe": {
        "run": {"epochs": 90, "precision": "fp32"},
        "network": {
            "norm_first": False, "spatial_norm": False, "lrn_k": 1.0, "lrn_span": "layer", "dropout": "scaled",
            "init": "caffe", "bias_one": 0.1,
        },
        "rule": {"schedule": "epochs", "divide_at": (20, 40, 60, 80)},
        "loader": {"order": "fixed", "global_batch": 256, "crop": 227, "mean": "aligned", "colour": "none"},
    },
    "demo": {
        "run": {"epochs": 3, "precision": "fp32"},
        "network": {"init": "he", "bias_one": 0.0},
        "rule": {"schedule": "constant", "learning_rate": 0.005, "bias_rate_factor": 1.0},
        "loader": {"global_batch": 16, "mean": "channel", "colour": "museum", "divide": 60.0, "divide_test": 60.0},
    },
}  # fmt: skip


def recipe(settings: TrainSettings, dataset: Dataset) -> Recipe:
    """What a run will do: the preset, with the settings that were given in its place, for the dataset's classes."""
    preset = PRESETS[settings.preset]
    loader, rule, run = dict(preset["loader"]), dict(preset["rule"]), dict(preset["run"])
    if settings.global_batch is not None:
        loader["global_batch"] = settings.global_batch
    if settings.learning_rate is not None:
        rule["learning_rate"] = settings.learning_rate
    for name in ("epochs", "precision"):
        if getattr(settings, name) is not None:
            run[name] = getattr(settings, name)
    return Recipe(
        preset=settings.preset,
        seed=settings.seed,
        network=NetworkSettings(num_classes=max(dataset.num_classes, 2), **preset["network"]),
        rule=RuleSettings(**rule),
        loader=LoaderSettings(seed=settings.seed, **loader),
        **run,
    )


def misfits(settings: TrainSettings, dataset: Dataset) -> list[str]:
    """Where the dataset was made otherwise than the preset's network was trained; each a sentence."""
    said = []
    if settings.preset == "caffe" and dataset.settings.label_order != "wnid":
        said.append("Labels are in ILSVRC order; class 0 is ILSVRC2012_ID 1.")
    if settings.preset in ("museum145", "caffe") and dataset.settings.order == "source":
        said.append(
            "Samples lie in the source's order, and this preset visits them in a fixed order: classes come in runs."
        )
    if dataset.side != 256:
        said.append(f"Pictures are {dataset.side} pixels wide; the presets were made for 256.")
    if dataset.num_classes != 1000 and settings.preset != "demo":
        said.append(
            f"The dataset has {dataset.num_classes} classes; schedules and learning rate of {settings.preset} are those "
            "for the 1,000 of ImageNet, and may not learn on few pictures (preset demo does)."
        )
    return said
