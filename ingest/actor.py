"""One Ray actor that makes shards, and where such actors may run."""

import os
import time
from dataclasses import dataclass, replace
from typing import Any, Protocol

import obstore.exceptions
import ray

from ingest.convert import Made, Writing
from ingest.errors import RefusedError, TenchError
from ingest.isolated import MEMORY_BYTES, limit_memory
from ingest.pixels import pixel_fingerprint

BYTES_PER_PIXEL = 3
COPIES = 8
"""How often a shard's pixels may be in memory at once, encoded, joined and written."""
HEAD = "node:__internal_head__"


class Task(Protocol):
    """What an actor is asked for, a frozen dataclass: to make one shard of `job`, which all shards share."""

    @property
    def job(self) -> Writing: ...
    @property
    def split(self) -> str: ...
    @property
    def number(self) -> int: ...
    @property
    def num_samples(self) -> int: ...
    @property
    def isolated(self) -> bool: ...

    def make(self) -> Made:
        """Make the shard and put it; errors of ours are raised."""

    def isolate(self) -> "Task":
        """The same shard, with whatever may end the process done in another one."""


@dataclass(eq=False)
class Actor:
    """An actor as the driver knows it; node and host are told when it has started."""

    number: int
    handle: Any
    node: str = ""
    host: str = ""
    spares: frozenset[str] = frozenset()
    """Nodes on which it may not start."""
    among: frozenset[str] = frozenset()
    """Nodes that were alive when it was asked for."""

    def __str__(self) -> str:
        return f"actor {self.number} on {self.host}"


@dataclass(frozen=True)
class Suspect:
    """A shard that ran its process out of memory: one of its pictures may be made for that."""

    reason: str


class _Converter:
    """Runs in a process of its own on some node."""

    def __init__(self, fingerprint: str) -> None:
        import pyarrow

        pyarrow.set_cpu_count(1)
        self._wanted = fingerprint

    def where(self) -> tuple[str, str]:
        """Id of the node, and its address."""
        return ray.get_runtime_context().get_node_id(), ray.util.get_node_ip_address()

    def make(self, job: Writing, task: Any) -> tuple[Made | TenchError | Suspect, float]:
        """What came of the shard, and the seconds: errors of ours travel as values. The task comes without its job."""
        started = time.perf_counter()
        return self._outcome(replace(task, job=job)), time.perf_counter() - started

    def _outcome(self, task: Task) -> Made | TenchError | Suspect:
        if pixel_fingerprint() != self._wanted:
            return RefusedError(
                f"node {ray.util.get_node_ip_address()}: its imaging library gives other pixels than the plan's; "
                "install the same Tench (`make install`) on every node"
            )
        limit_memory(MEMORY_BYTES + task.num_samples * task.job.settings.side**2 * BYTES_PER_PIXEL * COPIES)
        try:
            return task.make()
        except TenchError as error:
            return error
        except MemoryError as error:
            return Suspect(f"out of memory: {error}")
        except (OSError, obstore.exceptions.BaseError) as error:
            host, reason = ray.util.get_node_ip_address(), str(error).splitlines()[0]
            return TenchError(
                f"shard {task.split} {task.number} on {host}: {reason}; finished shards are kept. Mend the cause, then "
                "run the same command again"
            )


def start_actor(number: int, fingerprint: str, spared: frozenset[str] = frozenset()) -> tuple[Any, Actor]:
    """Start an actor on a free CPU of a node that is not spared; the reference that tells when and where it has
    started, and the actor."""
    options: dict[str, Any] = {"num_cpus": 1, "max_restarts": 0, "max_task_retries": 0}
    if spared:
        options["label_selector"] = {"ray.io/node-id": f"!in({','.join(sorted(spared))})"}
    converter: Any = ray.remote(**options)(_Converter)
    handle = converter.remote(fingerprint)
    return handle.where.remote(), Actor(number, handle, spares=spared)


def end_actor(actor: Actor) -> None:
    """End an actor, whatever it does, wherever it waits; no error if it is gone already."""
    ray.kill(actor.handle, no_restart=True)


def alive_nodes() -> frozenset[str]:
    """Ids of the nodes that Ray believes to be alive."""
    return frozenset(n["NodeID"] for n in _nodes())


def spared_nodes() -> frozenset[str]:
    """The head, which is left to the driver and to Ray as soon as there are CPUs on another node."""
    heads = frozenset(n["NodeID"] for n in _nodes() if HEAD in n["Resources"])
    return heads if _cpus(without=heads) else frozenset()


def num_cpus_granted() -> int:
    """CPUs for actors: inside a job those that it was granted (TENCH_CPUS), otherwise those of the nodes that are
    there and not spared."""
    if granted := os.environ.get("TENCH_CPUS"):
        return max(1, int(granted))
    return max(1, _cpus(without=spared_nodes()))


def _nodes() -> list[dict[str, Any]]:
    return [n for n in ray.nodes() if n["Alive"]]


def _cpus(without: frozenset[str]) -> int:
    return sum(int(n["Resources"].get("CPU", 0)) for n in _nodes() if n["NodeID"] not in without)
