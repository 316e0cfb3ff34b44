"""torchvision's AlexNet beside ours: the names of its tensors, and which of our networks are the same function.

It sees pictures from which the published mean was subtracted, divided by the published deviations, with 2 zeros all
around; it has one column, no normalisation, and drops units scaled in training. Its classes stand in the order of
their wnids. torchvision itself is not needed.
"""

from typing import Any

import torch

from ingest.errors import RefusedError
from trainer.presets import PRESETS
from trainer.switches import NetworkSettings, Recipe

LAYERS = {
    "conv1": "features.0", "conv2": "features.3", "conv3": "features.6", "conv4": "features.8", "conv5": "features.10",
    "fc6": "classifier.1", "fc7": "classifier.4", "fc8": "classifier.6",
}  # fmt: skip
"""Our layers by torchvision's names."""
FREE = (
    "num_classes", "dropout", "dropout_place", "norm_first", "pool_ties", "pool_rounding", "exchange", "lrn_k",
    "lrn_factor", "lrn_span", "init", "bias_one", "bias_last",
)  # fmt: skip
"""Switches that may differ: without LRN, for crops of 224 and in evaluation they do not change the function (what
halves a mask at test goes into the weights)."""


def other_than_torchvision(chosen: Recipe) -> list[str]:
    """Where a network, or what it sees, is not what torchvision's AlexNet is."""
    row = PRESETS["torchvision"]
    wanted = NetworkSettings(**row["network"]).content()
    pairs = [(f"network.{name}", value, chosen.network.content()[name]) for name, value in wanted.items()
             if name not in FREE]  # fmt: skip
    pairs += [
        ("loader.mean", row["loader"]["mean"], chosen.loader.mean),
        ("loader.divide_test", 1.0, chosen.loader.divide_test),
        ("loader.border", 0, chosen.loader.border),
    ]
    return [f"{name} is {_short(here)}, there {_short(there)}" for name, there, here in pairs if here != there]


def without_mask(tensors: dict[str, torch.Tensor], network: NetworkSettings) -> dict[str, torch.Tensor]:
    """Weights for a network that does not halve what was masked in training: those that read it, halved."""
    if network.dropout != "mask":
        return tensors
    behind = ("fc6", "fc7") if network.dropout_place == "inputs" else ("fc7", "fc8")
    return {
        n: tensor * 0.5 if n in {f"{layer}.weight" for layer in behind} else tensor for n, tensor in tensors.items()
    }


def refuse_other_order(classes: list[str], whose: str) -> None:
    if classes != sorted(classes):
        raise RefusedError(
            f"torchvision's classes stand in the order of their wnids, {whose} do not; a dataset ingested with "
            "--label-order wnid has that order"
        )


def _short(value: Any) -> str:
    return "-".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
