"""A training on a cluster of simulated nodes: it begins with one worker, grows, shrinks, is stopped. Prints one JSON object.

python -m tests.trainer.elastic_scenario DATASET FOLDER
"""

import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cluster.ray_session import LOOPBACK_ENVIRONMENT, private_folder
from ingest.errors import Interrupted
from ingest.progress import RunWriter, ask_to_stop
from ingest.storage import Place
from tests.ingest.cluster_scenarios import simulated

PATIENCE_S = 300
RECIPE: dict[str, Any] = {
    "preset": "demo", "epochs": 100_000, "global_batch": 40, "switch": ("loader.crop=64", "network.hidden=[64, 32]"),
    "num_workers": 2, "min_workers": 1, "cpus_per_worker": 1, "resize_minutes": 0.1, "device": "cpu",
    "checkpoint_minutes": 1e-9, "keep_checkpoints": 10_000, "tensorboard": False,
}  # fmt: skip


class Watched:
    """A training in a thread; `outcome` says how it ended."""

    def __init__(self, dataset: str, folder: Path) -> None:
        from trainer.launch import train
        from trainer.settings import TrainSettings

        self.folder, self.outcome = folder, ""

        def work() -> None:
            run = RunWriter.begin(Place(folder), "train", {})
            try:
                train(dataset, str(folder), TrainSettings(**RECIPE), run)
            except Interrupted as error:
                self.outcome = error.message
            finally:
                run.flush()

        self.thread = threading.Thread(target=work, daemon=True)
        self.thread.start()

    def world_sizes(self) -> list[int]:
        """World size of each complete checkpoint whose evaluation is over, by step."""
        states = [path.parent / "state.json" for path in sorted(self.folder.glob("checkpoints/*/hashes.json"))]
        return [json.loads(path.read_text())["execution"]["world_size"] for path in states if path.exists()]

    def wait_for(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            if time.monotonic() > deadline or not self.thread.is_alive():
                raise RuntimeError(f"not in time, or over ({self.outcome!r}): world sizes {self.world_sizes()}")
            time.sleep(0.2)


def grown_and_shrunk(dataset: str, folder: Path) -> dict[str, Any]:
    """One node, then two, then one again; stopped in the end."""
    with simulated(head_cpus=0) as nodes:
        nodes.add(1)
        training = Watched(dataset, folder)
        training.wait_for(lambda: training.world_sizes()[-1:] == [1])
        late = nodes.add(1)
        training.wait_for(lambda: training.world_sizes()[-1:] == [2])
        nodes.lose(late)
        training.wait_for(lambda: training.world_sizes()[-1:] == [1])
        ask_to_stop(Place(folder), 1)
        training.thread.join(PATIENCE_S)
        return {"outcome": training.outcome, "world_sizes": training.world_sizes()}


def play(scenario: Callable[[str, Path], dict[str, Any]], dataset: str, folder: str) -> None:
    """Play a scenario in a Ray of its own, whose folder goes with it, and print what it gives."""
    place = private_folder()
    try:
        os.environ |= {**LOOPBACK_ENVIRONMENT, "RAY_AUTH_TOKEN_PATH": str(place / "token"), "RAY_TMPDIR": str(place)}
        print(json.dumps(scenario(dataset, Path(folder))))
    finally:
        shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    play(grown_and_shrunk, *sys.argv[1:])
