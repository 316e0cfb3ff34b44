"""Presets: rows of switches, nothing more; and what of a recipe does not fit a dataset, in words."""

from typing import Any

from pydantic import ValidationError

from augment.settings import LoaderSettings
from ingest.dataset import Dataset
from ingest.errors import UsageError
from trainer.impossible import refuse_impossible
from trainer.settings import TrainSettings
from trainer.switches import NetworkSettings, Recipe, RuleSettings, switch

Row = dict[str, dict[str, Any]]

ONE_TOWER = {"widths": (64, 192, 384, 256, 256), "columns": 1}
"""The network of "one weird trick", which torchvision took over."""
MUSEUM_LOADER = {"order": "fixed", "mean": "centre", "colour": "museum", "divide": 1.1}
PUBLISHED_STD = (58.395, 57.12, 57.375)
"""torchvision's standard deviations of red, green and blue, 0.229, 0.224 and 0.225, in pixel units."""

PUBLISHED = ("museum145", "paper", "convnet2", "caffe", "torchvision", "cnn_star")
AS_RELEASED = ("museum145", "paper", "convnet2", "cnn_star", "fast")
"""Presets whose labels are those of the released network: its own, and those that do not say otherwise."""

PRESETS: dict[str, Row] = {
    "museum145": {
        "run": {"epochs": 91, "precision": "fp32"},
        "network": {},
        # The epochs at which the author of the released network lowered the rates of its 2012 run by hand, taken as
        # epochs that were done by then. Whether the notes count the one under way (from 1) is not known.
        "rule": {
            "schedule": "epochs", "divide_at": (25, 51, 79), "lower_biases": False,
            "layer_rates": {"conv1": ((67, 1e-5), (72, 0.0))},
        },
        "loader": {**MUSEUM_LOADER, "colour_until_epoch": 67, "crop_chunk": 32},
    },
    "paper": {
        "run": {"epochs": 90, "precision": "fp32"},
        "network": {
            "norm_first": False, "spatial_norm": False, "lrn_factor": 1e-4, "lrn_span": "layer", "init": "paper",
        },
        "rule": {"schedule": "plateau", "bias_rate_factor": 1.0},
        "loader": {"order": "fixed", "crop_positions": "paper", "mean": "centre", "colour": "paper"},
    },
    "convnet2": {
        "run": {"epochs": 90, "precision": "fp32"},
        "network": {**ONE_TOWER, "spatial_norm": False, "lrn_span": "layer", "bias_last": -7.0},
        "rule": {"schedule": "dexp"},
        "loader": MUSEUM_LOADER,
    },
    "caffe": {
        "run": {"epochs": 90, "precision": "fp32"},
        "network": {
            "norm_first": False, "spatial_norm": False, "lrn_k": 1.0, "lrn_span": "layer", "dropout": "scaled",
            "init": "caffe", "bias_one": 0.1, "conv1_border": "none", "pool_ties": "first",
        },
        "rule": {"schedule": "epochs", "divide_at": (20, 40, 60, 80)},
        "loader": {"order": "fixed", "global_batch": 256, "crop": 227, "mean": "aligned", "colour": "none"},
    },
    "torchvision": {
        "run": {"epochs": 90, "precision": "fp32"},
        "network": {
            **ONE_TOWER, "norm_first": False, "spatial_norm": False, "lrn": False, "dropout": "scaled",
            "dropout_place": "inputs", "init": "torch", "conv1_border": "around", "pool_rounding": "floor",
            "pool_ties": "first", "input_scale": PUBLISHED_STD,
        },
        "rule": {
            "schedule": "epochs", "divide_at": (30, 60), "bias_rate_factor": 1.0, "decay": 1e-4, "decay_biases": True,
            "velocity": "without_rate",
        },
        "loader": {"global_batch": 256, "mean": "published", "colour": "none"},
    },
    "cnn_star": {
        "run": {"epochs": 54, "precision": "fp32"},
        "network": {"sixth": True},
        # The released fine-tuning run: the new last layer learns quickly from its 300th batch to epoch 9. The notes'
        # batches are files of 1,024 pictures: 300 of them are 0.24 of ILSVRC-2012's 1,281,167.
        "rule": {
            "learning_rate": 0.001, "schedule": "epochs", "divide_at": (22, 42), "lower_biases": False,
            "bias_rate_factor": 20.0,
            "layer_rates": {
                "conv1": ((0, 1e-4), (5, 1e-5), (7, 0.0)),
                "fc8": ((0, 1e-3), (0.24, 1e-2), (9, 1e-3), (22, 1e-4), (42, 1e-5)),
            },
        },
        "loader": {**MUSEUM_LOADER, "colour_until_epoch": 38, "crop_chunk": 32},
    },
    "fast": {
        "run": {"epochs": 90, "precision": "bf16"},
        "network": {"pool_ties": "first"},
        "rule": {"learning_rate": 0.04, "schedule": "cosine", "warmup_epochs": 5.0},
        "loader": {"global_batch": 1024, "mean": "centre", "colour": "museum", "divide": 1.1},
    },
    "cifar": {
        "run": {"epochs": 40, "precision": "fp32"},
        "network": {
            "architecture": "cifar", "widths": (32, 32, 64), "columns": 1, "hidden": (), "lrn": False,
            "spatial_norm": False, "dropout": "none",
        },
        "rule": {"schedule": "constant", "learning_rate": 0.001, "decay": 0.0},
        "loader": {"crop": 32, "flip": False, "colour": "none"},
    },
    "demo": {
        "run": {"epochs": 3, "precision": "fp32"},
        "network": {"init": "he", "bias_one": 0.0},
        "rule": {"schedule": "constant", "learning_rate": 0.005, "bias_rate_factor": 1.0},
        "loader": {"global_batch": 16, "mean": "channel", "colour": "museum", "divide": 60.0, "divide_test": 60.0},
    },
}  # fmt: skip

VARIANTS: dict[str, Row] = {
    "one_column": {"network": {"widths": (48, 128, 192, 192, 256), "columns": 1}},
    "no_norm": {"network": {"lrn": False, "spatial_norm": False}},
    "no_overlap": {"network": {"pool": 2}},
    "tanh": {"network": {"activation": "tanh"}},
    "sigmoid": {"network": {"activation": "sigmoid"}},
    # Pictures as in evaluation from the first epoch on: neither the noise nor the division that goes with it.
    "no_colour": {"loader": {"colour": "none", "colour_until_epoch": 0}},
    "no_dropout": {"network": {"dropout": "none"}},
    "no_conv3": {"network": {"without": "conv3"}},
    "no_conv4": {"network": {"without": "conv4"}},
    "no_conv5": {"network": {"without": "conv5"}},
    "no_exchange": {"network": {"exchange": False, "widths": (96, 320, 384, 384, 256), "hidden": (8192, 4096)}},
    "sixth": {"network": {"sixth": True}},
}
"""The paper's ablations, as the released files made them."""


def recipe(settings: TrainSettings, dataset: Dataset) -> Recipe:
    """What a run will do: the preset, its variants, the settings that were given, single switches; for the dataset's
    classes. Each takes the place of what stands before it. Raises UsageError for switches that do not go together."""
    row: Row = {part: dict(PRESETS[settings.preset][part]) for part in ("run", "network", "rule", "loader")}
    for variant in settings.variant:
        for part, switches in VARIANTS[variant].items():
            row[part].update(switches)
    given = {"loader": ("global_batch",), "rule": ("learning_rate",), "run": ("epochs", "precision")}
    for part, names in given.items():
        row[part].update({name: getattr(settings, name) for name in names if getattr(settings, name) is not None})
    for part, name, value in map(switch, settings.switch):
        row[part][name] = value
    try:
        loader = LoaderSettings(seed=settings.seed, **row["loader"])
        network = NetworkSettings(num_classes=max(dataset.num_classes, 2), side=loader.crop, **row["network"])
        chosen = Recipe(
            preset=settings.preset, seed=settings.seed, network=network, rule=RuleSettings(**row["rule"]), loader=loader,
            **row["run"],
        )  # fmt: skip
    except ValidationError as error:
        said = [f"{problem['loc'][-1]} {problem['input']}: {problem['msg'].lower()}" for problem in error.errors()]
        raise UsageError(f"switches: {'; '.join(said)}") from None
    refuse_impossible(chosen)
    return chosen


def misfits(settings: TrainSettings, dataset: Dataset) -> list[str]:
    """Where the dataset was made otherwise than the preset's network was trained (rows 1-3, 12, 36 and 37 of the table of
    switches), or cannot be made so, or lacks what the schedule needs; each a sentence."""
    preset, made, chosen = settings.preset, dataset.settings, recipe(settings, dataset)
    side = 32 if preset == "cifar" else 256
    few = dataset.num_classes != 1000 and preset not in ("demo", "cifar")
    said = {
        "The dataset has no val split: schedule plateau, which waits for the validation error to stall, never lowers the "
        "rate.": chosen.rule.schedule == "plateau" and "val" not in dataset.split_names,
        "Labels are in ILSVRC order; class 0 is ILSVRC2012_ID 1.": (
            preset in ("caffe", "torchvision") and made.label_order != "wnid"
        ),
        "Labels are in wnid order, those of the released network in ILSVRC order: its outputs come in another order, "
        "which changes nothing else.": preset in AS_RELEASED and made.label_order == "wnid",
        "Samples lie in the source's order, and this preset visits them in a fixed order: classes come in runs.": (
            chosen.loader.order == "fixed" and made.order == "source"
        ),
        "Caffe warped pictures to a square and kept their raw pixels in BGR order; here they are scaled, cut and RGB"
        + (", and stored as JPEG." if dataset.payload == "jpeg" else "."): preset == "caffe",
        "torchvision trained on crops of random area and aspect of the original pictures, scaled to 224; here crops of "
        "224 are cut from pictures of 256.": preset == "torchvision",
        "cuda-convnet2 shrank pictures to averages of areas and stored them as JPEG of quality 95; here the filter is "
        f"{made.filter}, {_stored_as(dataset)}.": preset == "convnet2",
        "Pictures were turned as their EXIF orientation says, which no published network's were.": (
            preset in PUBLISHED and made.orientation == "obey"
        ),
        "The JPEG decoder shrank large pictures before the filter did (draft), which no published network's was let do.": (
            preset in PUBLISHED and made.draft
        ),
        f"{len(dataset.manifest.quarantine):,} pictures could not be decoded and were left out; {preset} had no such "
        "pictures, or stopped at them.": bool(dataset.manifest.quarantine) and preset in ("convnet2", "torchvision"),
        f"Pictures are {dataset.side} pixels wide; the preset was made for {side}.": dataset.side != side,
        f"The rate rises over {chosen.rule.warmup_epochs:g} epochs, and there are {chosen.epochs}: it never falls.": (
            chosen.rule.warmup_epochs >= chosen.epochs
        ),
        f"The dataset has {dataset.num_classes} classes; schedules and learning rate of {preset} are those for the "
        "1,000 of ImageNet, and may not learn on few pictures (preset demo does).": few,
    }
    return [sentence for sentence, holds in said.items() if holds]


def _stored_as(dataset: Dataset) -> str:
    return f"stored as JPEG of quality {dataset.settings.quality}" if dataset.payload == "jpeg" else "stored raw"
