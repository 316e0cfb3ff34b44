"""Work for a service that is disturbed: what is asked of it, and what the job must have made in the end."""

import hashlib
import json
from pathlib import Path
from typing import Any

import psutil

from tests.trainer.runs import SMALL

KINDS = ("ingest", "train", "train-here")
"""A conversion; a training in a worker of Ray Train, and in the driver itself."""
DATASET = "ingest-0"
"""What the trainings work on: the dataset that the first conversion makes."""


def settings_of(kind: str, data: Path, name: str, **changes: Any) -> dict[str, Any]:
    """Settings of a job: `name` is its dataset if it makes one; the source is `data`/source/folders."""
    if kind == "ingest":
        made = {"source": str(data / "source/folders"), "dataset": str(data / name)}
        return made | {"samples_per_shard": 8, "num_actors": 2} | changes
    return {
        "dataset": str(data / DATASET), "preset": "demo", "epochs": 3, "global_batch": 20, "switch": list(SMALL),
        "num_workers": int(kind == "train"), "cpus_per_worker": 1, "device": "cpu", "checkpoint_minutes": 1e-9,
        "tensorboard": False,
    } | changes  # fmt: skip


def made_by(home: Path, job: dict[str, Any]) -> str:
    """The dataset id, or the hash of the final weights, that a job has left; empty if it has not succeeded."""
    if job["state"] != "succeeded":
        return ""
    if job["kind"] == "ingest":
        manifest = json.loads(Path(job["settings"]["dataset"], "manifest.json").read_text())
        return str(manifest["dataset_id"])
    import torch

    newest = sorted((home / "runs" / job["id"] / "checkpoints").glob("*/hashes.json"))[-1]
    network = torch.load(newest.with_name("weights.pt"), weights_only=True)["network"]
    hashed = hashlib.sha256(newest.parent.name.split(".")[0].encode())
    for name, tensor in sorted(network.items()):
        hashed.update(name.encode() + tensor.numpy().tobytes())
    return hashed.hexdigest()


def drivers(home: Path) -> dict[str, psutil.Process]:
    """The drivers at work for the service of a home, by job id."""
    found = {}
    for process in psutil.process_iter():
        try:
            run = process.environ().get("TENCH_RUN", "")
            if run.startswith(str(home)) and "cluster.entry" in process.cmdline():
                found[Path(run).name] = process
        except psutil.Error:
            continue
    return found
