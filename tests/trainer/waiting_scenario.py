"""An elastic training whose only node is lost for good, which is then stopped. Prints one JSON object.

python -m tests.trainer.waiting_scenario DATASET FOLDER
"""

import sys
import time
from pathlib import Path
from typing import Any

from ingest.progress import ask_to_stop
from ingest.storage import Place
from tests.ingest.cluster_scenarios import simulated
from tests.trainer.elastic_scenario import PATIENCE_S, Watched, play

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


if __name__ == "__main__":
    play(stopped_without_nodes, *sys.argv[1:])
