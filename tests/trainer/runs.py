"""Training runs in this process, and what they left in their folders, read without our code."""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ingest.progress import RunWriter
from ingest.storage import Place
from trainer.launch import train
from trainer.settings import TrainSettings

Tensors = dict[str, torch.Tensor]
# A small AlexNet, quickly trained and saved.
SMALL = ("loader.crop=64", "network.hidden=[64, 32]")
# Two epochs of the tiny dataset's 60 samples: a step of 40 and one of 20 each.
RECIPE: dict[str, Any] = {"preset": "demo", "epochs": 2, "global_batch": 40, "switch": SMALL}
HERE: dict[str, Any] = {"num_workers": 0, "cpus_per_worker": 2, "device": "cpu", "keep_checkpoints": 9}
AFTER_EVERY_STEP: dict[str, Any] = {"checkpoint_minutes": 1e-9}


def train_here(dataset: str, folder: Path, *, stop: bool = False, **chosen: Any) -> dict[str, Any]:
    """The next attempt of a run in this process; with `stop`, somebody asks for a stop before the first step."""
    run = RunWriter.begin(Place(folder), "train", {})
    if stop:
        run.request_stop()
    try:
        return train(dataset, str(folder), TrainSettings(**{**RECIPE, **HERE, **chosen}), run)
    finally:
        run.flush()


@dataclass(frozen=True)
class Left:
    """What a run left in its folder."""

    folder: Path

    @property
    def names(self) -> list[str]:
        """Names of the checkpoints that show."""
        return sorted(path.parent.name for path in self.folder.glob("checkpoints/*/hashes.json"))

    def state(self, name: str) -> dict[str, Any]:
        """Where the run stood; before an evaluation that did not end, what due.json says."""
        place = self.folder / "checkpoints" / name
        file = place / "state.json" if (place / "state.json").exists() else place / "due.json"
        state: dict[str, Any] = json.loads(file.read_text())
        return state

    def tensors(self, name: str) -> dict[str, Tensors]:
        """{"network": {...}, "velocity": {...}} of a checkpoint."""
        path = self.folder / "checkpoints" / name / "weights.pt"
        tensors: dict[str, Tensors] = torch.load(path, weights_only=True)
        return tensors

    def events(self, kind: str, attempt: int = 1) -> list[dict[str, Any]]:
        """Data of an attempt's events of a kind, in order."""
        return [event["data"] for event in self._events(attempt) if event["kind"] == kind]

    def texts(self, kind: str, attempt: int = 1) -> list[str]:
        """Sentences of an attempt's events of a kind, in order."""
        return [event["text"] for event in self._events(attempt) if event["kind"] == kind]

    def _events(self, attempt: int) -> list[dict[str, Any]]:
        segments = sorted(self.folder.glob(f"events/{attempt:04d}/*.jsonl"))
        events = [json.loads(line) for segment in segments for line in segment.read_text().splitlines()]
        assert [event["seq"] for event in events] == sorted({event["seq"] for event in events})
        return events

    def progress(self, attempt: int = 1) -> dict[str, Any]:
        progress: dict[str, Any] = json.loads((self.folder / f"progress/{attempt:04d}.json").read_text())
        return progress

    def copy_checkpoint(self, name: str, into: Path) -> Path:
        """A run folder that holds just this checkpoint, by hard links."""
        place = Path("checkpoints", name)
        shutil.copytree(self.folder / place, into / place, copy_function=os.link)
        return into


def assert_same_checkpoint(one: Left, other: Left, name: str, other_name: str | None = None) -> None:
    """Weights, velocities and where the run stands: equal bit for bit."""
    other_name = other_name or name
    first, second = one.tensors(name), other.tensors(other_name)
    for part in ("network", "velocity"):
        assert first[part].keys() == second[part].keys()
        assert all(torch.equal(tensor, second[part][key]) for key, tensor in first[part].items())
    assert one.state(name) == other.state(other_name)
