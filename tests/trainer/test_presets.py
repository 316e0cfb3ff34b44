"""Presets are rows of the table of switches; settings of a run override them; what does not fit is said."""

import re
from typing import Any, get_args

import numpy as np
import pytest
from pydantic import ValidationError

from augment.choices import choose, view_choices
from ingest.dataset import Dataset
from ingest.errors import UsageError
from ingest.manifest import QuarantinedKey
from trainer.launch import plan_only
from trainer.presets import VARIANTS, misfits, recipe
from trainer.schedules import ScheduleState, rates
from trainer.settings import TrainSettings, VariantName
from trainer.switches import PresetName

# The table of switches: one line a point of difference, and its cell in each preset that has a column.
COLUMNS = ("paper", "museum145", "convnet2", "caffe", "torchvision")
TWO, ONE = (96, 256, 384, 384, 256), (64, 192, 384, 256, 256)
SWITCHES: dict[str, tuple[Any, ...]] = {
    "loader.order": ("fixed", "fixed", "fixed", "fixed", "permuted"),
    "loader.mean": ("centre", "centre", "centre", "aligned", "published"),
    "loader.crop": (224, 224, 224, 227, 224),
    "loader.crop_positions": ("paper", "all", "all", "all", "all"),
    "loader.crop_chunk": (1, 32, 1, 1, 1),
    "loader.flip": (True,) * 5,
    "loader.colour": ("paper", "museum", "museum", "none", "none"),
    "loader.colour_until_epoch": (None, 67, None, None, None),
    "loader.divide": (1.0, 1.1, 1.1, 1.0, 1.0),
    "loader.divide_test": (1.0,) * 5,
    "loader.global_batch": (128, 128, 128, 256, 256),
    "loader.tail": ("short",) * 5,
    "network.num_classes": (10,) * 5,
    "network.side": (224, 224, 224, 227, 224),
    "network.widths": (TWO, TWO, ONE, TWO, ONE),
    "network.columns": (2, 2, 1, 2, 1),
    "network.conv1_border": ("after", "after", "after", "none", "around"),
    "network.norm_first": (False, True, True, False, False),
    "network.spatial_norm": (False, True, False, False, False),
    "network.lrn": (True, True, True, True, False),
    "network.lrn_k": (2.0, 2.0, 2.0, 1.0, 2.0),
    "network.lrn_factor": (1e-4, 2e-5, 2e-5, 2e-5, 2e-5),
    "network.lrn_span": ("layer", "half", "layer", "layer", "half"),
    "network.pool": (3,) * 5,
    "network.pool_rounding": ("ceil", "ceil", "ceil", "ceil", "floor"),
    "network.pool_ties": ("all", "all", "all", "first", "first"),
    "network.dropout": ("mask", "mask", "mask", "scaled", "scaled"),
    "network.dropout_place": ("outputs", "outputs", "outputs", "outputs", "inputs"),
    "network.init": ("paper", "museum", "museum", "caffe", "torch"),
    "network.bias_one": (1.0, 1.0, 1.0, 0.1, 1.0),
    "network.bias_last": (0.0, 0.0, -7.0, 0.0, 0.0),
    "network.input_scale": (None, None, None, None, (58.395, 57.12, 57.375)),
    "rule.learning_rate": (0.01,) * 5,
    "rule.bias_rate_factor": (1.0, 2.0, 2.0, 2.0, 1.0),
    "rule.lower_biases": (True, False, True, True, True),
    "rule.momentum": (0.9,) * 5,
    "rule.velocity": ("with_rate", "with_rate", "with_rate", "with_rate", "without_rate"),
    "rule.decay": (5e-4, 5e-4, 5e-4, 5e-4, 1e-4),
    "rule.decay_biases": (False, False, False, False, True),
    "rule.schedule": ("plateau", "epochs", "dexp", "epochs", "epochs"),
    "rule.divide_at": ((), (25, 51, 79), (), (20, 40, 60, 80), (30, 60)),
    "rule.divide_by": (10.0,) * 5,
    "rule.divisions": (3,) * 5,
    "rule.dexp": ((250.0, 4),) * 5,
    "rule.dexp_biases": ((10.0, 2),) * 5,
    "rule.layer_rates": ({}, {"conv1": ((67, 1e-5), (72, 0))}, {}, {}, {}),
    "rule.trust": (0.0,) * 5,
    "epochs": (90, 91, 90, 90, 90),
    "precision": ("fp32",) * 5,
}


def cell(given: Any, path: str) -> Any:
    for part in path.split("."):
        given = getattr(given, part)
    return given


@pytest.mark.parametrize("path", SWITCHES)
def test_each_preset_is_its_column_of_the_table(path: str, tiny_dataset: str) -> None:
    opened = Dataset.open(tiny_dataset)
    found = tuple(cell(recipe(TrainSettings(preset=preset), opened), path) for preset in COLUMNS)
    assert found == SWITCHES[path]


def test_the_new_last_layer_of_cnn_star_learns_quickly_after_300_files_of_1024_pictures(tiny_dataset: str) -> None:
    rule = recipe(TrainSettings(preset="cnn_star"), Dataset.open(tiny_dataset)).rule
    before, after = (files * 1024 for files in (299, 301))
    found = [rates(rule, ScheduleState(), pictures / 1_281_167, 54).of("fc8.weight") for pictures in (before, after)]
    assert found == [1e-3, 1e-2]


@pytest.mark.parametrize("preset", sorted({*get_args(PresetName)} - {"cifar"}))
def test_every_preset_is_a_recipe_for_the_datasets_classes(preset: Any, tiny_dataset: str) -> None:
    plan = plan_only(tiny_dataset, TrainSettings(preset=preset, epochs=2))
    assert plan["recipe"]["preset"] == preset
    whole = {"convnet2": 61_100_840, "torchvision": 61_100_840, "cnn_star": 61_555_304}.get(preset, 60_965_224)
    assert plan["num_parameters"] == whole - 990 * 4097
    batch = plan["recipe"]["loader"]["global_batch"]
    assert (plan["steps_per_epoch"], plan["steps"]) == (-(-60 // batch), 2 * -(-60 // batch))
    assert plan["samples"] == 120


def test_the_cifar_preset_fits_pictures_of_32_pixels(tiny_dataset: str) -> None:
    plan = plan_only(tiny_dataset, TrainSettings(preset="cifar"))
    assert (plan["recipe"]["loader"]["crop"], plan["num_parameters"]) == (32, 89_578)


@pytest.mark.parametrize("variant", get_args(VariantName))
def test_each_variant_changes_just_its_switches(variant: Any, tiny_dataset: str) -> None:
    opened = Dataset.open(tiny_dataset)
    plain, changed = recipe(TrainSettings(), opened), recipe(TrainSettings(variant=(variant,)), opened)
    differing = {
        f"{part}.{name}"
        for part in ("network", "rule", "loader")
        for name, value in getattr(plain, part)
        if value != getattr(getattr(changed, part), name)
    }
    expected = {f"{part}.{name}" for part, switches in VARIANTS[variant].items() for name in switches}
    assert differing == expected


@pytest.mark.parametrize("preset", get_args(PresetName))
def test_without_colour_pictures_are_trained_on_as_they_are_evaluated(preset: Any, tiny_dataset: str) -> None:
    opened = Dataset.open(tiny_dataset)
    loader = recipe(TrainSettings(preset=preset, variant=("no_colour",)), opened).loader
    chosen = choose(loader, opened.side, opened.pca, 0, np.arange(4), np.arange(4))
    assert not chosen.offset.any()
    assert np.array_equal(chosen.divide, view_choices(loader, opened.side, 1, 4).divide)


def test_single_switches_come_last(tiny_dataset: str) -> None:
    told: Any = {"variant": ("tanh", "one_column"), "learning_rate": 0.5, "preset": "paper"}
    switches: Any = (
        "network.activation=sigmoid",
        "rule.learning_rate=0.25",
        "loader.crop=64",
        "network.hidden=[32, 16]",
    )
    found = recipe(TrainSettings(**told, switch=switches), Dataset.open(tiny_dataset))
    assert (found.network.activation, found.network.columns, found.network.hidden) == ("sigmoid", 1, (32, 16))
    assert (found.rule.learning_rate, found.loader.crop, found.network.side) == (0.25, 64, 64)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("network.lrn_c=1", "did you mean network.lrn_k?"),
        ("lrn_k=1", "did you mean network.lrn_k?"),
        ("network.lrn_k", "is not a switch"),
        ("network.lrn_k=0", "greater than 0"),
        ("network.activation=swish", "'relu', 'tanh' or 'sigmoid'"),
        ("network.num_classes=7", "is not a switch"),
        ("loader.threads=2", "is not a switch"),
        ("loader.seed=2", "is not a switch"),
        ('rule.layer_rates={"pool1": [[0, 1]]}', "pattern"),
    ],
)
def test_a_switch_that_does_not_exist_is_refused_at_the_door(text: str, words: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(words)):
        TrainSettings(switch=(text,))


@pytest.mark.parametrize(
    ("preset", "layer", "layers"),
    [
        ("museum145", "conv9", "conv1, conv2, conv3, conv4, conv5, fc6, fc7, fc8"),
        ("museum145", "conv6", "conv1, conv2, conv3, conv4, conv5, fc6, fc7, fc8"),
        ("cifar", "fc8", "conv1, conv2, conv3, fc4"),
    ],
)
def test_a_rate_for_a_layer_that_the_network_does_not_have_is_refused(
    preset: Any, layer: str, layers: str, tiny_dataset: str
) -> None:
    settings = TrainSettings(
        preset=preset, switch=(f'rule.layer_rates={{"{layer}": [[0, 0.1]], "conv1": [[0, 0.1]]}}',)
    )
    with pytest.raises(UsageError, match=f"this network has no {layer}; its layers are {layers}$"):
        plan_only(tiny_dataset, settings)


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"switch": ("network.widths=[64,192,384]",)}, "widths [64, 192, 384]: alexnet has 5 convolutions"),
        ({"switch": ("network.widths=[95,256,384,384,256]",)}, "widths: 95 cannot be shared out to 2 columns"),
        ({"variant": ("no_exchange",), "switch": ("network.hidden=[4095,4096]",)}, "hidden: 4095 cannot be shared out"),
        ({"switch": ("loader.crop=4",)}, "side 4: input should be greater than or equal to 8"),
        ({"switch": ("loader.output=uint8",)}, "output uint8: the network takes float32 pictures in fp32"),
        ({"switch": ("loader.output=bfloat16",)}, "output bfloat16: the network takes float32 pictures in fp32"),
        ({"preset": "torchvision", "switch": ("rule.trust=0.001",)}, "give rule.velocity=with_rate as well"),
        ({"switch": ("loader.crop=300",)}, "crop: 300 pixels, but the pictures of"),
        ({"preset": "cifar", "variant": ("one_column",)}, "cifar has 3 convolutions, give as many"),
        ({"preset": "cifar", "variant": ("sixth",)}, "sixth True: the cifar network has no such switch; only False fits"),
        ({"preset": "cifar", "switch": ("network.dropout=mask",)}, "dropout mask: the cifar network has no such switch"),
    ],
)  # fmt: skip
def test_switches_that_do_not_go_together_are_refused(told: Any, words: str, tiny_dataset: str) -> None:
    with pytest.raises(UsageError, match=re.escape(words)):
        plan_only(tiny_dataset, TrainSettings(**told))


def test_bfloat16_pictures_go_with_a_bf16_network(tiny_dataset: str) -> None:
    plan_only(tiny_dataset, TrainSettings(precision="bf16", switch=("loader.output=bfloat16",)))


def test_a_run_shorter_than_its_warm_up_is_warned_of(tiny_dataset: str) -> None:
    said = misfits(TrainSettings(preset="fast", epochs=5), Dataset.open(tiny_dataset))
    assert any("rises over 5 epochs, and there are 5" in sentence for sentence in said)
    assert not any("rises" in s for s in misfits(TrainSettings(preset="fast", epochs=6), Dataset.open(tiny_dataset)))


def test_an_elastic_run_saves_before_it_looks_for_more_workers() -> None:
    assert TrainSettings(num_workers=8, min_workers=2).save_minutes == 4.0
    assert TrainSettings(num_workers=8, min_workers=2, checkpoint_minutes=1).save_minutes == 1.0
    assert TrainSettings(num_workers=8).save_minutes == 10.0


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


def test_what_does_not_fit_the_dataset_is_said(tiny_dataset: str) -> None:
    small = Dataset.open(tiny_dataset)
    odd = changed(tiny_dataset, {"order": "source", "label_order": "ilsvrc", "side": 64})
    assert misfits(TrainSettings(preset="demo"), small) == []
    labels, few = misfits(TrainSettings(preset="museum145"), small)
    assert labels.startswith("Labels are in wnid order, those of the released network in ILSVRC order")
    assert few.startswith(
        "The dataset has 10 classes; schedules and learning rate of museum145 are those for the 1,000"
    )
    said = {p: [s[:18] for s in misfits(TrainSettings(preset=p), odd)] for p in get_args(PresetName)}
    few_classes, narrow, sorted_source, ids = (
        "The dataset has 10",
        "Pictures are 64 pi",
        "Samples lie in the",
        "Labels are in ILSV",
    )
    assert said == {
        "museum145": [sorted_source, narrow, few_classes],
        "convnet2": [sorted_source, "cuda-convnet2 shra", narrow, few_classes],
        "caffe": [ids, sorted_source, "Caffe warped pictu", narrow, few_classes],
        "torchvision": [ids, "torchvision traine", narrow, few_classes],
        "paper": [sorted_source, narrow, few_classes],
        "cnn_star": [sorted_source, narrow, few_classes],
        "fast": [narrow, few_classes],
        "cifar": [narrow],
        "demo": [narrow],
    }


def changed(dataset: str, settings: dict[str, Any], **manifest: Any) -> Dataset:
    """A dataset as if it had been made with other settings."""
    opened = Dataset.open(dataset)
    made = {**opened.manifest.settings, **settings}
    return Dataset(opened.place, opened.manifest.model_copy(update={"settings": made, **manifest}))


def test_a_fixed_order_of_samples_as_the_source_stores_them_is_warned_of_whoever_asks_for_it(tiny_dataset: str) -> None:
    sorted_source = changed(tiny_dataset, {"order": "source"})
    for preset, order, warned in (("demo", "fixed", True), ("demo", "permuted", False), ("paper", "permuted", False)):
        told: Any = {"preset": preset, "switch": (f"loader.order={order}",)}
        said = [s for s in misfits(TrainSettings(**told), sorted_source) if "classes come in runs" in s]
        assert bool(said) == warned


def test_a_plateau_that_no_evaluation_can_end_is_said(tiny_dataset: str) -> None:
    opened = Dataset.open(tiny_dataset)
    only_train = changed(tiny_dataset, {}, splits={"train": opened.manifest.splits["train"]})
    words = "The dataset has no val split: schedule plateau"
    plateau = TrainSettings(preset="demo", switch=("rule.schedule=plateau",))
    assert [s.startswith(words) for s in misfits(plateau, only_train)] == [True]
    assert misfits(plateau, opened) == misfits(TrainSettings(preset="demo"), only_train) == []


@pytest.mark.parametrize("preset", ["museum145", "paper", "convnet2", "cnn_star", "fast"])
def test_labels_in_another_order_than_the_released_networks_are_said(preset: Any, tiny_dataset: str) -> None:
    for order, warned in (("wnid", True), ("ilsvrc", False)):
        said = misfits(TrainSettings(preset=preset), changed(tiny_dataset, {"label_order": order}))
        assert any(s.startswith("Labels are in wnid order") for s in said) == warned


def test_pixels_that_were_made_otherwise_than_a_published_networks_are_said(tiny_dataset: str) -> None:
    odd = changed(tiny_dataset, {"orientation": "obey", "draft": True, "quality": 77, "filter": "lanczos"})
    for preset in ("museum145", "paper", "caffe", "torchvision", "cnn_star"):
        said = "; ".join(misfits(TrainSettings(preset=preset), odd))
        assert "turned as their EXIF orientation says" in said
        assert "shrank large pictures before the filter did (draft)" in said
        assert "EXIF" not in "; ".join(misfits(TrainSettings(preset=preset), Dataset.open(tiny_dataset)))
    (said,) = (s for s in misfits(TrainSettings(preset="convnet2"), odd) if s.startswith("cuda-convnet2"))
    assert said.endswith("JPEG of quality 95; here the filter is lanczos, stored as JPEG of quality 77.")


def test_pictures_that_were_left_out_are_said_where_the_presets_authors_left_out_none(tiny_dataset: str) -> None:
    bad = tuple(QuarantinedKey(split="train", row=row, key=f"n/{row}", code="no_decoder") for row in range(2))
    partial = changed(tiny_dataset, {}, quarantine=bad)
    said = {
        p for p in get_args(PresetName) for s in misfits(TrainSettings(preset=p), partial) if s.startswith("2 pict")
    }
    assert said == {"convnet2", "torchvision"}
