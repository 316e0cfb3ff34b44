"""An elastic training whose only node is lost for good, which is then stopped. Prints one JSON object.

python -m tests.trainer.waiting_scenario DATASET FOLDER
"""

import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from cluster.ray_session import LOOPBACK_ENVIRONMENT, private_folder
from ingest.progress import ask_to_stop
from ingest.storage import Place
from tests.ingest.cluster_scenarios import simulated
from tests.trainer.elastic_scenario import PATIENCE_S, Watched

QUIET_S = 20


def stopped_without_nodes(dataset: str, folder: Path) -> dict[str, Any]:
    """One node, then none, as long as it takes Ray to see that; `seconds` from the stop to the end."""
    import ray

    with simulated(head_cpus=0) as nodes:
        only = nodes.add(1)
        training = Watched(dataset, folder)
        training.wait_for(lambda: len(training.world_sizes()) > 1)
        nodes.lose(only)
        training.wait_for(lambda: not ray.cluster_resources().get("CPU"))
        time.sleep(QUIET_S)
        asked = time.monotonic()
        ask_to_stop(Place(folder), 1)
        training.thread.join(PATIENCE_S)
        return {"outcome": training.outcome, "seconds": time.monotonic() - asked}


def main(dataset: str, folder: str) -> None:
    """Play it in a Ray of its own, whose folder goes with it."""
    place = private_folder()
    try:
        os.environ |= {**LOOPBACK_ENVIRONMENT, "RAY_AUTH_TOKEN_PATH": str(place / "token"), "RAY_TMPDIR": str(place)}
        print(json.dumps(stopped_without_nodes(dataset, Path(folder))))
    finally:
        shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
