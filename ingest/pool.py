"""Ray actors that convert shards: one a core, one shard each at a time. The only Ray import of this package.

An actor keeps nothing that matters: a shard whose actor died is handed out again, and whatever the dead one had
put already is found to be the same. Loss of a node costs its shards no attempt; a process that dies does.
"""

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import ray
from ray.exceptions import RayActorError

from ingest.convert import ShardReport
from ingest.errors import Interrupted, RefusedError, TenchError
from ingest.pixels import pixel_fingerprint
from ingest.progress import RunWriter

MAX_ATTEMPTS = 3
WAIT_S = 0.2


class Task(Protocol):
    """What an actor is asked for: to make one shard."""

    @property
    def split(self) -> str: ...
    @property
    def number(self) -> int: ...

    def make(self) -> ShardReport:
        """Make the shard and put it; errors of ours are raised."""


@dataclass(frozen=True)
class Converted:
    """A shard an actor has made, and what it took."""

    report: ShardReport
    seconds: float
    actor: int


class _Converter:
    """Runs in a process of its own on some node."""

    def __init__(self, fingerprint: str) -> None:
        import pyarrow

        pyarrow.set_cpu_count(1)
        self._wanted = fingerprint

    def convert(self, task: Task) -> tuple[ShardReport | TenchError, float]:
        """The report, or the error that this shard ended with: errors of ours travel as values."""
        started = time.perf_counter()
        try:
            if pixel_fingerprint() != self._wanted:
                host = ray.util.get_node_ip_address()
                raise RefusedError(
                    f"node {host}: its imaging library gives other pixels than the plan's; install the same Tench "
                    "(`make install`) on every node"
                )
            return task.make(), time.perf_counter() - started
        except TenchError as error:
            return error, time.perf_counter() - started


@dataclass
class _Actor:
    number: int
    handle: Any
    node: str = ""


@dataclass
class Pool:
    """`num_actors` converters in the Ray that this process is connected to. Use as a context manager."""

    num_actors: int
    fingerprint: str
    run: RunWriter
    busy: dict[Any, tuple[_Actor, Task]] = field(default_factory=dict)
    attempts: dict[tuple[str, int], int] = field(default_factory=dict)
    _started: int = 0

    def __enter__(self) -> "Pool":
        self._idle: list[_Actor] = [self._start() for _ in range(self.num_actors)]
        return self

    def __exit__(self, *exc: object) -> None:
        for actor in [*self._idle, *(a for a, _ in self.busy.values())]:
            ray.kill(actor.handle, no_restart=True)
        self._idle, self.busy = [], {}

    def convert_all(self, tasks: Sequence[Task], on_done: Any) -> None:
        """Convert every task; `on_done(Converted)` is called in the order in which they end.

        Raises the first TenchError of a shard, or Interrupted when a stop is asked for: shards that are
        finished stay, and so does what `on_done` has seen.
        """
        waiting = deque(tasks)
        while waiting or self.busy:
            while waiting and self._idle:
                self._hand_out(self._idle.pop(), waiting.popleft())
            ready, _ = ray.wait(list(self.busy), num_returns=1, timeout=WAIT_S)
            for reference in ready:
                self._take_back(reference, waiting, on_done)
            if self.run.stop_requested():
                raise Interrupted("Stopped; finished shards are kept. The same command goes on from here.")

    def _start(self) -> _Actor:
        remote = ray.remote(num_cpus=1, max_restarts=0, max_task_retries=0)(_Converter)
        self._started += 1
        return _Actor(self._started, remote.remote(self.fingerprint))

    def _hand_out(self, actor: _Actor, task: Task) -> None:
        self.busy[actor.handle.convert.remote(task)] = (actor, task)

    def _take_back(self, reference: Any, waiting: deque[Task], on_done: Any) -> None:
        actor, task = self.busy.pop(reference)
        try:
            outcome, seconds = ray.get(reference)
        except RayActorError as error:
            self._replace(actor, task, waiting, error)
            return
        self._idle.append(actor)
        if isinstance(outcome, TenchError):
            raise outcome
        on_done(Converted(outcome, seconds, actor.number))

    def _replace(self, actor: _Actor, task: Task, waiting: deque[Task], error: Exception) -> None:
        """Start another actor for a dead one and queue its shard again, first in line."""
        shard = (task.split, task.number)
        self.attempts[shard] = self.attempts.get(shard, 0) + 1
        self.run.event(
            "actor lost",
            f"Actor {actor.number} died on shard {task.split} {task.number}; another one takes it.",
            actor=actor.number, split=task.split, shard=task.number, reason=str(error).splitlines()[0],
        )  # fmt: skip
        if self.attempts[shard] >= MAX_ATTEMPTS:
            raise TenchError(
                f"shard {task.split} {task.number} killed its process {MAX_ATTEMPTS} times: one of its pictures "
                f"ends the decoder, or the machine is short of memory. Last: {error}"
            )
        waiting.appendleft(task)
        self._idle.append(self._start())


def num_cpus_granted() -> int:
    """CPUs of the Ray this process is connected to; inside a job, those the job was granted (TENCH_CPUS)."""
    import os

    if granted := os.environ.get("TENCH_CPUS"):
        return max(1, int(granted))
    return max(1, int(ray.cluster_resources().get("CPU", 1)))
