"""Runs with untrained small networks, as their checkpoints lie in their folders: as much as an evaluation needs."""

from pathlib import Path
from typing import Any

import torch

from ingest.dataset import Dataset
from ingest.progress import RunWriter
from ingest.storage import Place
from trainer import checkpoint
from trainer.networks import build
from trainer.presets import recipe
from trainer.settings import TrainSettings

SMALL = (
    "loader.crop=64", "network.widths=[8, 12, 8, 8, 8]", "network.hidden=[32, 16]", "network.init=he",
    "network.lrn=false", "network.spatial_norm=false",
)  # fmt: skip
SPREAD = 3.0
"""How far apart the answers are: an untrained network hardly prefers any class."""


def saved_run(folder: Path, dataset: str, *switches: str, preset: Any = "demo", seed: int = 0) -> str:
    """A run folder with one checkpoint, at step 7 of epoch 3."""
    opened = Dataset.open(dataset)
    settings = TrainSettings(preset=preset, seed=seed, switch=(*SMALL, *switches))
    chosen = recipe(settings, opened)
    network = build(chosen.network, seed)
    with torch.no_grad():
        network.get_submodule(network.layer_names[-1]).get_parameter("weight").mul_(SPREAD)
    state = {
        "content_id": opened.content_id, "dataset_id": opened.dataset_id, "classes": [c.wnid for c in opened.classes],
        "recipe": chosen.model_dump(mode="json"), "epoch": 3, "step": 7, "errors": None,
        "execution": {"world_size": 1, "threads": 1, "device": "cpu"}, "versions": {"tench": "0", "torch": "0"},
    }  # fmt: skip
    checkpoint.save(Place(folder), 1, state, network.state_dict(), {})
    RunWriter.begin(Place(folder), "train", {"settings": {"dataset": dataset}})
    return str(folder)
