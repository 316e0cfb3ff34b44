"""Presets are rows of the table of switches; settings of a run override them; what does not fit is said."""

from typing import Any, get_args

import pytest
from pydantic import ValidationError

from augment.settings import LoaderSettings
from ingest.dataset import Dataset
from trainer.launch import plan_only
from trainer.networks import DEVIATIONS
from trainer.presets import PRESETS, misfits, recipe
from trainer.settings import PresetName, TrainSettings

# The table of switches: one line a point of difference, and its cell for the text of the paper, the released
# network and Caffe's.
COLUMNS = ("paper", "museum145", "caffe")
SWITCHES: dict[str, tuple[Any, Any, Any]] = {
    "loader.mean": ("centre", "centre", "aligned"),
    "loader.crop": (224, 224, 227),
    "loader.crop_chunk": (1, 32, 1),
    "loader.flip": (True, True, True),
    "loader.colour": ("paper", "museum", "none"),
    "loader.colour_until_epoch": (None, 67, None),
    "loader.divide": (1.0, 1.1, 1.0),
    "loader.divide_test": (1.0, 1.0, 1.0),
    "loader.global_batch": (128, 128, 256),
    "loader.tail": ("short", "short", "short"),
    "network.num_classes": (10, 10, 10),
    "network.norm_first": (False, True, False),
    "network.spatial_norm": (False, True, False),
    "network.lrn": (True, True, True),
    "network.lrn_k": (2.0, 2.0, 1.0),
    "network.lrn_factor": (1e-4, 2e-5, 2e-5),
    "network.lrn_span": ("layer", "half", "layer"),
    "network.dropout": ("mask", "mask", "scaled"),
    "network.init": ("paper", "museum", "caffe"),
    "network.bias_one": (1.0, 1.0, 0.1),
    "rule.learning_rate": (0.01, 0.01, 0.01),
    "rule.bias_rate_factor": (1.0, 2.0, 2.0),
    "rule.lower_biases": (True, False, True),
    "rule.momentum": (0.9, 0.9, 0.9),
    "rule.decay": (5e-4, 5e-4, 5e-4),
    "rule.decay_biases": (False, False, False),
    "rule.schedule": ("plateau", "epochs", "epochs"),
    "rule.divide_at": ((), (25, 51, 79), (20, 40, 60, 80)),
    "rule.divide_by": (10.0, 10.0, 10.0),
    "rule.divisions": (3, 3, 3),
    "epochs": (90, 91, 90),
    "precision": ("fp32", "fp32", "fp32"),
}


def switch(given: Any, path: str) -> Any:
    for part in path.split("."):
        given = getattr(given, part)
    return given


@pytest.mark.parametrize("path", SWITCHES)
def test_each_preset_is_its_column_of_the_table(path: str, tiny_dataset: str) -> None:
    opened = Dataset.open(tiny_dataset)
    found = tuple(switch(recipe(TrainSettings(preset=preset), opened), path) for preset in COLUMNS)
    assert found == SWITCHES[path]


def test_the_released_network_and_caffe_visit_samples_in_a_fixed_order(tiny_dataset: str) -> None:
    opened = Dataset.open(tiny_dataset)
    assert {recipe(TrainSettings(preset=preset), opened).loader.order for preset in ("museum145", "caffe")} == {"fixed"}


@pytest.mark.parametrize("preset", get_args(PresetName))
def test_every_preset_is_a_recipe_for_the_datasets_classes(preset: str, tiny_dataset: str) -> None:
    plan = plan_only(tiny_dataset, TrainSettings(preset=preset, epochs=2))  # type: ignore[arg-type]
    assert plan["recipe"]["preset"] == preset
    assert plan["num_parameters"] == 60_965_224 - 990 * 4097
    assert plan["recipe"]["network"]["init"] in {*DEVIATIONS, "he"}
    batch = plan["recipe"]["loader"]["global_batch"]
    assert (plan["steps_per_epoch"], plan["steps"]) == (-(-60 // batch), 2 * -(-60 // batch))
    assert plan["samples"] == 120


def test_settings_of_a_run_take_the_place_of_the_presets(tiny_dataset: str) -> None:
    told: dict[str, Any] = {"epochs": 7, "global_batch": 24, "learning_rate": 0.3, "precision": "bf16", "seed": 11}
    opened = Dataset.open(tiny_dataset)
    found = recipe(TrainSettings(preset="caffe", **told), opened)
    plain = recipe(TrainSettings(preset="caffe"), opened)
    changed = plain.model_copy(
        update={
            **{name: told[name] for name in ("epochs", "precision", "seed")},
            "rule": plain.rule.model_copy(update={"learning_rate": 0.3}),
            "loader": plain.loader.model_copy(update={"global_batch": 24, "seed": 11}),
        }
    )
    assert found == changed


def test_settings_of_execution_are_no_part_of_the_recipe(tiny_dataset: str) -> None:
    opened = Dataset.open(tiny_dataset)
    execution: dict[str, Any] = {"num_workers": 5, "device": "cpu", "micro_batch": 3, "cpus_per_worker": 2}
    assert recipe(TrainSettings(**execution, checkpoint_minutes=3), opened) == recipe(TrainSettings(), opened)


@pytest.mark.parametrize(
    "told", [{"preset": "alexnet"}, {"epochs": 0}, {"learning_rate": 0}, {"batch": 5}, {"seed": -1}, {"precision": "f"}]
)
def test_settings_that_no_run_could_use_are_refused(told: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TrainSettings(**told)


def test_a_preset_states_only_switches_that_exist() -> None:
    names = {name for preset in PRESETS.values() for name in preset["loader"]}
    assert names <= set(LoaderSettings.model_fields)


def test_what_does_not_fit_the_dataset_is_said(tiny_dataset: str) -> None:
    small = Dataset.open(tiny_dataset)
    made_otherwise = {**small.manifest.settings, "order": "source", "label_order": "ilsvrc", "side": 64}
    odd = Dataset(small.place, small.manifest.model_copy(update={"settings": made_otherwise}))
    assert misfits(TrainSettings(preset="demo"), small) == []
    (few,) = misfits(TrainSettings(preset="museum145"), small)
    assert few.startswith(
        "The dataset has 10 classes; schedules and learning rate of museum145 are those for the 1,000"
    )
    said = {p: [s[:12] for s in misfits(TrainSettings(preset=p), odd)] for p in get_args(PresetName)}
    few_classes, narrow, sorted_source, ids = "The dataset ", "Pictures are", "Samples lie ", "Labels are i"
    assert said == {
        "museum145": [sorted_source, narrow, few_classes],
        "caffe": [ids, sorted_source, narrow, few_classes],
        "paper": [narrow, few_classes],
        "demo": [narrow],
    }
