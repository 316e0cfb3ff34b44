"""Conversions on clusters of simulated nodes that are disturbed: each prints what came of it, as one JSON object.

    python -m tests.ingest.cluster_scenarios SCENARIO SOURCE FOLDER

A process of its own for each, since a process can be connected to one Ray only. `converting` works in the Ray
that RAY_ADDRESS names; the others start a cluster on loopback, in a folder that goes with it.
"""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from cluster.ray_session import LOOPBACK_ENVIRONMENT, OBJECT_STORE_BYTES, QUIET, join_ray, private_folder
from ingest import run as conversion
from ingest.convert import ShardTask
from ingest.errors import TenchError
from ingest.progress import RunWriter, ask_to_stop
from ingest.settings import IngestSettings
from ingest.storage import Place
from tests.ingest import slow

PATIENCE_S = 120
PER_SHARD = 16
ACTOR = "ray::_Converter"


class Told(RunWriter):
    """A writer whose events can be read at once, line by line, in `events.jsonl` beside the run."""

    def event(self, kind: str, text: str, **data: Any) -> None:
        super().event(kind, text, **data)
        with open(f"{self.place.uri}-events.jsonl", "a") as file:
            file.write(json.dumps({"kind": kind, "text": text, "at": time.time(), **data}) + "\n")


class Running:
    """A conversion in a thread, its pictures decoded slowly."""

    def __init__(self, source: str, folder: Path, run: str = "run", patience_s: float = PATIENCE_S) -> None:
        self.folder, self.run, self.dataset = folder, Place(folder / run), folder / "dataset"
        self.facts: dict[str, Any] = {}
        self.error = ""
        self._patience_s = patience_s
        self._thread = threading.Thread(target=self._work, args=(source,), daemon=True)
        self._thread.start()

    def _work(self, source: str) -> None:
        writer = Told.begin(self.run, "ingest", {})
        try:
            self.facts = conversion.ingest(
                source, str(self.dataset), IngestSettings(samples_per_shard=PER_SHARD), writer
            )
        except TenchError as error:
            self.error = f"{type(error).__name__}: {error.message}"

    def wait_for(self, condition: Callable[[], object]) -> None:
        """Until it holds. Raises RuntimeError if the run ends before, or nothing happens."""
        deadline = time.monotonic() + self._patience_s
        while not condition():
            if not self._thread.is_alive() or time.monotonic() > deadline:
                raise RuntimeError(f"run {'goes on' if self._thread.is_alive() else 'over'}: {self.outcome()}")
            time.sleep(0.02)

    def num_reports(self) -> int:
        """Shards that are finished."""
        return len(list(self.dataset.glob("parts/*.json")))

    def outcome(self) -> dict[str, Any]:
        """How it ended, and all that it told."""
        events = [json.loads(line) for line in Path(f"{self.run.uri}-events.jsonl").read_text().splitlines()]
        return {"facts": self.facts, "error": self.error, "events": events}

    def to_the_end(self) -> dict[str, Any]:
        """Its outcome. Raises RuntimeError if it has none in time."""
        self._thread.join(self._patience_s)
        if self._thread.is_alive():
            raise RuntimeError(f"still running: {self.outcome()}")
        return self.outcome()


class Nodes:
    """A cluster of simulated nodes on this machine."""

    def __init__(self, folder: Path, head_cpus: int) -> None:
        from ray.cluster_utils import Cluster

        self._cluster: Any = Cluster()
        self.head = self.add(head_cpus, temp_dir=str(folder), include_dashboard=False)

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def add(self, num_cpus: int, **more: Any) -> Any:
        """Start a node and wait until the cluster knows it."""
        return self._cluster.add_node(num_cpus=num_cpus, object_store_memory=OBJECT_STORE_BYTES // 2, **more)

    def lose(self, node: Any) -> None:
        """SIGKILL to a node's raylet. It is reaped: to its actors a raylet that is defunct is one that lives."""
        process = node.all_processes["raylet"][0].process
        process.kill()
        process.wait()

    def end(self) -> None:
        """End every node."""
        self._cluster.shutdown()


@contextmanager
def simulated(head_cpus: int) -> Iterator[Nodes]:
    """A cluster with a head, to which this process is connected."""
    import ray

    nodes = Nodes(Path(os.environ["RAY_TMPDIR"], "ray"), head_cpus)
    try:
        ray.init(address=nodes.address, namespace="tench", **QUIET)
        yield nodes
    finally:
        ray.shutdown()
        nodes.end()


def working() -> list[psutil.Process]:
    """Actors of this process's nodes that have a shard in hand."""
    return [p for p in actors() if ".make" in _title(p)]


def actors() -> list[psutil.Process]:
    """Processes of this process's nodes that convert, or could."""
    return [p for p in psutil.Process().children(recursive=True) if _title(p).startswith(ACTOR)]


def decoding_apart() -> list[psutil.Process]:
    """Processes that decode the pictures of a shard which is suspect."""
    time.sleep(0.2)
    return [p for p in psutil.Process().children(recursive=True) if "ingest.isolated" in _title(p)]


def _title(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def late_node(source: str, folder: Path) -> dict[str, Any]:
    """The head works alone until a node joins."""
    with simulated(head_cpus=2) as nodes:
        running = Running(source, folder)
        running.wait_for(lambda: running.num_reports() >= 4)
        late = nodes.add(2)
        return {**running.to_the_end(), "head": nodes.head.node_id, "late": late.node_id}


def spared_head(source: str, folder: Path) -> dict[str, Any]:
    """There are two nodes besides the head from the start."""
    with simulated(head_cpus=2) as nodes:
        others = [nodes.add(1).node_id for _ in range(2)]
        return {**Running(source, folder).to_the_end(), "head": nodes.head.node_id, "others": others}


def lost_nodes(source: str, folder: Path) -> dict[str, Any]:
    """One node after the other is lost with a shard in hand; each time another one comes late."""
    with simulated(head_cpus=0) as nodes:
        node = nodes.add(1)
        running = Running(source, folder)
        running.wait_for(lambda: running.num_reports() >= 2)
        lost, apart = [], 0
        for _ in range(3):
            running.wait_for(working)
            apart += len(decoding_apart())
            nodes.lose(node)
            lost.append(node.node_id)
            node = nodes.add(1)
            running.wait_for(lambda: len(actors()) == 1)
        running.wait_for(working)
        apart += len(decoding_apart())
        return {**running.to_the_end(), "lost": lost, "last": node.node_id, "apart": apart}


def lost_while_starting(source: str, folder: Path) -> dict[str, Any]:
    """A node is lost at the moment at which four actors start on it."""
    with simulated(head_cpus=0) as nodes:
        node = nodes.add(4)
        running = Running(source, folder)
        running.wait_for(lambda: len(actors()) >= 3)
        nodes.lose(node)
        last = nodes.add(2)
        return {**running.to_the_end(), "lost": node.node_id, "last": last.node_id}


def head_alone_again(source: str, folder: Path) -> dict[str, Any]:
    """The only node besides the head is lost, and no other comes."""
    with simulated(head_cpus=1) as nodes:
        node = nodes.add(1)
        running = Running(source, folder)
        running.wait_for(lambda: running.num_reports() >= 2 and working())
        nodes.lose(node)
        return {**running.to_the_end(), "head": nodes.head.node_id, "lost": node.node_id}


def stopped(source: str, folder: Path) -> dict[str, Any]:
    """A run is stopped, then the same one is begun again."""
    with simulated(head_cpus=2):
        running = Running(source, folder)
        running.wait_for(lambda: running.num_reports() >= 3 and len(working()) == 2)
        ask_to_stop(running.run, 1)
        asked = time.monotonic()
        first = running.to_the_end()
        first["seconds"] = time.monotonic() - asked
        psutil.wait_procs(left := actors(), timeout=10)
        first["left"] = [_title(p) for p in left if p.is_running()]
        first["reports"] = running.num_reports()
        return {**first, "rerun": Running(source, folder, "rerun").to_the_end()}


def side_by_side(source: str, folder: Path) -> dict[str, Any]:
    """Two drivers convert one source into one dataset, on the same nodes."""
    with simulated(head_cpus=4) as nodes:
        command = [sys.executable, "-m", __spec__.name, "converting", source, str(folder)]
        drivers = [
            subprocess.Popen(
                [*command, f"run{number}"],
                stdout=subprocess.PIPE,
                env={**os.environ, "RAY_ADDRESS": nodes.address, "TENCH_CPUS": "2"},
            )
            for number in range(2)
        ]
        said = [driver.communicate(timeout=PATIENCE_S)[0] for driver in drivers]
        return {"runs": [json.loads(words.splitlines()[-1]) for words in said]}


def converting(source: str, folder: Path, run: str = "run") -> dict[str, Any]:
    """A run in the Ray of RAY_ADDRESS, however long it takes."""
    with join_ray():
        return Running(source, folder, run, patience_s=1000).to_the_end()


SCENARIOS = (
    late_node, spared_head, lost_nodes, lost_while_starting, head_alone_again, stopped, side_by_side, converting
)  # fmt: skip


def _slowly(*arguments: Any) -> Iterator[ShardTask]:
    return (replace(task, job=replace(task.job, decode=slow.decode)) for task in _honest(*arguments))


_honest = conversion.shard_tasks  # type: ignore[attr-defined]


def main(scenario: str, *arguments: str) -> None:
    """Run a scenario; everything of its cluster lies in a folder that is removed."""
    source, folder, *more = arguments
    conversion.shard_tasks = _slowly  # type: ignore[attr-defined, assignment]
    play: Any = next(s for s in SCENARIOS if s.__name__ == scenario)
    if "RAY_ADDRESS" in os.environ:
        print(json.dumps(play(source, Path(folder), *more)))
        return
    place = private_folder()
    try:
        os.environ |= {**LOOPBACK_ENVIRONMENT, "RAY_AUTH_TOKEN_PATH": str(place / "token"), "RAY_TMPDIR": str(place)}
        print(json.dumps(play(source, Path(folder), *more)))
    finally:
        shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
