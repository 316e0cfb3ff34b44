"""Ray actors that make shards: one a core, one shard each at a time. With `actor.py` the only Ray import here.

An actor keeps nothing that matters: a shard whose actor died is handed out again, and whatever the dead one had
put already is found to be the same. A shard that took its process with it, or stalled, is done again with its
pictures decoded in a child process. Loss of a node costs its shards no attempt; a process that dies does.
"""

import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayError, RayTaskError

from ingest.actor import Actor, Suspect, Task, alive_nodes, end_actor, num_cpus_granted, spared_nodes, start_actor
from ingest.convert import Made, ShardReport, Writing
from ingest.errors import Interrupted, TenchError
from ingest.pace import Pace
from ingest.progress import RunWriter

MAX_ATTEMPTS = 3
MAX_FAILED_STARTS = 3
WAIT_S = 0.2
TOGETHER = 32
RESIZE_S, LOOK_S = 5.0, 1.0
"""How often the pool looks for new nodes, and for actors that stall."""
NODE_LOST_S = 30.0
"""An actor that cannot be reached may have lost its node; Ray is sure of that some 15 s later."""
Shard = tuple[str, int]


@dataclass(frozen=True)
class Converted:
    """A shard an actor has made, and what it took."""

    report: ShardReport
    seconds: float
    actor: Actor


@dataclass(frozen=True)
class _Flight:
    """A shard that an actor is working on."""

    actor: Actor
    task: Task
    started: float

    @property
    def shard(self) -> Shard:
        return self.task.split, self.task.number

    def seconds(self) -> float:
        return time.monotonic() - self.started


class Pool:
    """Up to `num_actors` actors, as the CPUs allow that Ray has now or later. Use as a context manager.

    `timeout_s` is what one picture may take before its shard counts as stalled.
    """

    def __init__(self, num_actors: int, fingerprint: str, run: RunWriter, timeout_s: float = 60.0) -> None:
        self.num_actors, self.fingerprint, self.run = num_actors, fingerprint, run
        self._pace = Pace(timeout_s)
        self._starting: dict[Any, Actor] = {}
        self._idle: list[Actor] = []
        self._flights: dict[Any, _Flight] = {}
        self._tasks: Iterator[Task] = iter(())
        self._exhausted = False
        self._again_first: deque[Task] = deque()
        self._open: set[Shard] = set()
        self._job: tuple[Writing, Any] | None = None
        self._writers: defaultdict[Shard, list[Actor]] = defaultdict(list)
        self._failures: defaultdict[Shard, list[tuple[str, float]]] = defaultdict(list)
        self._alive: frozenset[str] = frozenset()
        self._spared: frozenset[str] = frozenset()
        self._num_started = self._failed_starts = 0
        self._resized = self._looked = 0.0

    def __enter__(self) -> "Pool":
        self._resize()
        return self

    def __exit__(self, *exc: object) -> None:
        for actor in (*self._idle, *self._starting.values(), *(f.actor for f in self._flights.values())):
            end_actor(actor)
        self._idle, self._starting, self._flights = [], {}, {}

    def convert_all(self, tasks: Iterable[Task], on_done: Callable[[Converted], None]) -> None:
        """Make every shard; `on_done` is called in the order in which they end. A task is taken when it can begin.

        Raises the first TenchError of a shard, or Interrupted when a stop is asked for: shards that are
        finished stay, and so does what `on_done` has seen.
        """
        self._tasks, self._exhausted = iter(tasks), False
        self._hand_out()
        while self._open or not self._exhausted:
            self._resize()
            self._collect(on_done)
            self._hand_out()
            self._look_after()
            if self.run.stop_requested():
                raise Interrupted("Stopped; finished shards are kept. The same command goes on from here.")

    def _resize(self) -> None:
        """Start actors for CPUs that are there by now: nodes come late, and go."""
        enough = self._exhausted and not self._again_first
        if enough or (self._resized and time.monotonic() - self._resized < RESIZE_S):
            return
        self._resized = time.monotonic()
        self._alive, self._spared = alive_nodes(), spared_nodes()
        for reference, actor in list(self._starting.items()):
            if actor.spares != self._spared:  # it may wait for nodes that are gone
                end_actor(self._starting.pop(reference))
        wanted = min(self.num_actors, num_cpus_granted())
        for _ in range(wanted - len(self._idle) - len(self._starting) - len(self._flights)):
            self._start()

    def _rest(self, actor: Actor) -> None:
        """Keep an actor for the next shard, unless its node is spared by now: another one starts elsewhere."""
        if actor.node in self._spared:
            end_actor(actor)
            self._resized = 0.0
        else:
            self._idle.append(actor)

    def _start(self) -> None:
        self._num_started += 1
        ready, actor = start_actor(self._num_started, self.fingerprint, self._spared)
        actor.among = self._alive
        self._starting[ready] = actor

    def _hand_out(self) -> None:
        while self._idle and (task := self._next_task()) is not None:
            self._open.add((task.split, task.number))
            self._begin(self._idle.pop(), task)

    def _next_task(self) -> Task | None:
        if self._again_first:
            return self._again_first.popleft()
        task = next(self._tasks, None)
        self._exhausted = task is None
        return task

    def _begin(self, actor: Actor, task: Task) -> None:
        flight = _Flight(actor, task, time.monotonic())
        self._writers[flight.shard].append(actor)
        bare: Any = task
        self._flights[actor.handle.make.remote(self._sent(task), replace(bare, job=None))] = flight

    def _sent(self, task: Task) -> Any:
        """What all shards share, put where every node fetches it once."""
        if self._job is None or self._job[0] is not task.job:
            self._job = (task.job, ray.put(task.job))
        return self._job[1]

    def _collect(self, on_done: Callable[[Converted], None]) -> None:
        awaited = [*self._flights, *self._starting]
        # One call costs as much as looking at all: among many actors it is worth waiting for several results.
        ready, _ = ray.wait(awaited, num_returns=max(1, len(awaited) // TOGETHER), timeout=WAIT_S)
        for reference in ready:
            if (actor := self._starting.pop(reference, None)) is not None:
                self._welcome(reference, actor)
            else:
                self._take_back(reference, self._flights.pop(reference), on_done)

    def _welcome(self, reference: Any, actor: Actor) -> None:
        try:
            actor.node, actor.host = ray.get(reference)
        except RayError as error:
            end_actor(actor)
            self._resized = 0.0
            if not isinstance(error, ActorUnavailableError) and actor.among <= alive_nodes():
                self._failed_starts += 1  # and no loss of a node
            if self._failed_starts >= MAX_FAILED_STARTS:
                raise TenchError(f"no actor can be started on this Ray cluster: {_words(error)}") from error
            return
        self._failed_starts = 0
        self._rest(actor)

    def _take_back(self, reference: Any, flight: _Flight, on_done: Callable[[Converted], None]) -> None:
        try:
            outcome, seconds = ray.get(reference)
        except RayTaskError:
            raise
        except RayError as error:
            self._lose(flight, _words(error), "died on", in_doubt=isinstance(error, ActorUnavailableError))
            return
        self._rest(flight.actor)
        if isinstance(outcome, Suspect):
            self._again(flight, outcome.reason)
        elif isinstance(outcome, TenchError):
            raise outcome
        else:
            self._finish(flight, outcome, seconds, on_done)

    def _finish(self, flight: _Flight, made: Made, seconds: float, on_done: Callable[[Converted], None]) -> None:
        if made.already_there:
            self._tell_twice(flight, made.report.path)
        if flight.shard not in self._open:
            return
        self._open.discard(flight.shard)
        if not flight.task.isolated:
            self._pace.note(seconds)
        on_done(Converted(made.report, seconds, flight.actor))

    def _tell_twice(self, flight: _Flight, path: str) -> None:
        others = [str(w) for w in self._writers[flight.shard] if w is not flight.actor]
        first = " and ".join(others) or "an earlier or another run"
        self.run.event(
            "written twice",
            f"{path} was written twice, with the same bytes: by {first} and by {flight.actor}.",
            path=path, actors=[w.number for w in self._writers[flight.shard]],
        )  # fmt: skip

    def _look_after(self) -> None:
        """Now and then: end what stalls, and give what straggles to an idle actor as well."""
        if time.monotonic() - self._looked < LOOK_S:
            return
        self._looked = time.monotonic()
        self._end_stalled()
        in_hand = Counter(f.shard for f in self._flights.values())
        slow = [
            f for f in self._flights.values()
            if f.shard in self._open and in_hand[f.shard] == 1 and not f.task.isolated
            and self._pace.straggles(f.seconds())
        ]  # fmt: skip
        for flight in sorted(slow, key=lambda f: f.started)[: len(self._idle)]:
            second = self._idle.pop()
            self.run.event(
                "straggler",
                f"Shard {flight.task.split} {flight.task.number} has taken {flight.seconds():.0f} s on "
                f"{flight.actor}, others {self._pace.median_s:.1f} s; {second} makes it as well.",
                split=flight.task.split, shard=flight.task.number, actor=flight.actor.number, second=second.number,
            )  # fmt: skip
            self._begin(second, flight.task)

    def _end_stalled(self) -> None:
        for reference, flight in list(self._flights.items()):
            limit = self._pace.stall_after_s(flight.task.num_samples, flight.task.isolated)
            if flight.seconds() > limit:
                del self._flights[reference]
                self._lose(flight, f"no result after {limit:.0f} s", "stalled on")

    def _lose(self, flight: _Flight, reason: str, how: str, in_doubt: bool = False) -> None:
        """Go on without an actor that is gone, or out of reach; another one is started by the next look at the size."""
        end_actor(flight.actor)
        self._resized = 0.0
        self.run.event(
            "actor lost",
            f"{flight.actor} {how} shard {flight.task.split} {flight.task.number}; another one takes it.".capitalize(),
            actor=flight.actor.number, host=flight.actor.host, split=flight.task.split, shard=flight.task.number,
            reason=reason,
        )  # fmt: skip
        self._again(flight, reason, in_doubt)

    def _again(self, flight: _Flight, reason: str, in_doubt: bool = False) -> None:
        """Queue a shard again, first in line. Failures on nodes that live count; after one, pictures are decoded apart.

        `in_doubt`: its node may be gone without Ray knowing it yet, so that the failure counts later, if at all.
        """
        shard, alive, now = flight.shard, alive_nodes(), time.monotonic()
        self._failures[shard].append((flight.actor.node, now + NODE_LOST_S if in_doubt else now))
        num_failed = sum(node in alive and since <= now for node, since in self._failures[shard])
        if shard not in self._open or any(f.shard == shard for f in self._flights.values()):
            return
        if num_failed >= MAX_ATTEMPTS:
            raise TenchError(
                f"shard {shard[0]} {shard[1]} failed {MAX_ATTEMPTS} times, the last time with its pictures decoded in "
                f"a process of their own: the machine is short of memory, or its actors are killed. Last: {reason}"
            )
        self._again_first.append(flight.task.isolate() if num_failed else flight.task)


def _words(error: RayError) -> str:
    """What Ray says of an actor that is gone, without the lines that name its class and ids."""
    return " ".join(line for line in str(error).splitlines() if not line.startswith("\t"))
