"""A job, its states, and the one decision about it: what was seen of it gives its next move. Pure.

    queued -> starting -> running -> succeeded | failed | stopped;  stopping while a stop is under way,
    lost while nobody knows how it ended. `MOVES` is the whole table.

`next_move` reads values only; the watcher gathers them and carries the move out.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from ingest.progress import Result

State = Literal["queued", "starting", "running", "stopping", "lost", "succeeded", "failed", "stopped"]
RayState = Literal["absent", "pending", "running", "ended", "unreachable"]

STATES: tuple[State, ...] = get_args(State)
MOVES: dict[State, frozenset[State]] = {
    "queued": frozenset({"starting", "stopped", "failed"}),
    "starting": frozenset({"running", "failed", "stopping", "lost"}),
    "running": frozenset({"succeeded", "failed", "stopping", "lost"}),
    "stopping": frozenset({"stopped", "succeeded", "failed", "lost"}),
    "lost": frozenset({"running", "succeeded", "stopped", "failed", "queued"}),
    "failed": frozenset({"queued"}),
    "stopped": frozenset({"queued"}),
    "succeeded": frozenset(),
}
ENDED: frozenset[State] = frozenset({"succeeded", "failed", "stopped"})
ADMITTED: frozenset[State] = frozenset({"starting", "running", "stopping", "lost"})
"""States in which a job holds what the ledger granted it."""

WATCHER = "watcher"
MAX_ATTEMPTS = 3
SETTLE_S = 5.0
"""A result may show up this late on a shared file system after Ray calls the process ended."""
LOST_GRACE_S = 10.0
"""How long a lost job may come back before its next attempt."""
NEVER_FITS_S, COMES_BACK_S = 30.0, 1800.0
"""A cluster that starts may have what a job needs after the first time; one that lost nodes on which the job ran, after
the second."""
TAKEN_AWAY_S = 90.0
"""Who interrupts jobs from outside is about to take their Ray away: how long to wait for that before the next attempt."""
START_LIMIT_S = 900.0
"""Ray itself gives up a job that could not be placed after this time."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What a job holds while it runs: CPUs, GPUs, memory in bytes."""

    cpus: int = 0
    gpus: int = 0
    memory: int = 0


@dataclass(frozen=True, slots=True)
class Job:
    """A row of the store. Times are Unix seconds on the service's clock."""

    id: str
    kind: str
    name: str
    state: State
    settings: dict[str, Any]
    after: str | None
    priority: int
    asked_by: str
    created_at: float
    moved_at: float
    started_at: float | None = None
    ended_at: float | None = None
    attempt: int = 0
    max_attempts: int = MAX_ATTEMPTS
    uncounted: int = 0
    """Attempts that do not count towards `max_attempts`: interrupted ones, and all before a resume."""
    stop_requested: bool = False
    stop_by: str | None = None
    resume_requested: bool = False
    resume_by: str | None = None
    error: str | None = None
    exit_code: int | None = None
    result: dict[str, Any] | None = None
    grant: Needs = field(default_factory=Needs)
    version: int = 0
    move: int = 0

    @property
    def submission_id(self) -> str:
        """The name of this attempt in Ray: submitting it twice starts it once."""
        return f"tench-{self.id}-{self.attempt}"

    @property
    def last_attempt(self) -> int:
        """Number of the last attempt that the job may have, as things are."""
        return self.uncounted + self.max_attempts

    @property
    def has_ended(self) -> bool:
        return self.state in ENDED

    @property
    def is_over(self) -> bool:
        """It has ended, and nobody has asked to resume it."""
        return self.has_ended and not self.resume_requested


@dataclass(frozen=True, slots=True)
class Sight:
    """What can be seen of a job at one moment, from outside."""

    ray: RayState = "absent"
    gone_s: float = 0.0
    """Seconds since Ray was first seen to call the process ended or unknown; 0 while it lives."""
    last_words: str = ""
    """The end of its output, once the process is gone."""
    begun: bool = False
    """The attempt's driver has put its first file."""
    told_to_stop: bool = False
    """The attempt was asked to end at its next safe point."""
    result: Result | None = None
    parent: State | Literal["missing"] | None = None
    grant: Needs | None = None
    """Set when the ledger admits the job now."""
    never: str | None = None
    """Set when no state of this cluster could admit it: the reason."""
    never_s: float = 0.0
    """Seconds for which that has been so."""


@dataclass(frozen=True, slots=True)
class Move:
    """A change of state, the reason as a sentence, and the columns that change with it."""

    to: State
    reason: str
    changes: dict[str, Any] = field(default_factory=dict)


def asker(job: Job, move: Move) -> str:
    """Whose wish a move follows: the name of a token, or `watcher` where it follows from what was seen."""
    if move.to in ("stopping", "stopped") and job.stop_requested:
        return job.stop_by or WATCHER
    return (job.resume_by if job.has_ended else None) or WATCHER


class IllegalMove(Exception):
    """A move that is not in the table: a mistake of ours, never of a user."""


def moved(job: Job, move: Move, now: float) -> Job:
    """The job after a move. Raises IllegalMove if the table does not have it."""
    if move.to not in MOVES[job.state]:
        raise IllegalMove(f"job {job.id}: {job.state} -> {move.to} is not a move; there are {sorted(MOVES[job.state])}")
    return replace(
        job, state=move.to, moved_at=now, version=job.version + 1, move=job.move + 1,
        ended_at=now if move.to in ENDED else None, **move.changes,
    )  # fmt: skip


def next_move(job: Job, sight: Sight, now: float) -> Move | None:
    """The move that follows from what is seen, or None to wait. A Ray out of reach moves nothing by itself."""
    rules: dict[State, Callable[[Job, Sight, float], Move | None]] = {
        "queued": _from_queued,
        "starting": _from_starting,
        "running": _from_running,
        "stopping": _from_stopping,
        "lost": _from_lost,
    }
    return rules.get(job.state, _from_ended)(job, sight, now)


def _from_ended(job: Job, sight: Sight, now: float) -> Move | None:
    del sight, now
    if not job.resume_requested or job.state == "succeeded":
        return None
    changes = {
        "resume_requested": False, "stop_requested": False, "stop_by": None, "error": None, "exit_code": None, "result": None,
        "uncounted": job.attempt,
    }  # fmt: skip
    return Move("queued", "Resumed: it goes on from what is finished.", changes)


def _from_queued(job: Job, sight: Sight, now: float) -> Move | None:
    if job.stop_requested:
        return Move("stopped", "Stopped before it started.", {"error": "Stopped before it started."})
    if sight.parent in ("failed", "missing"):
        why = f"{job.after} has to succeed first, and it {'failed' if sight.parent == 'failed' else 'is gone'}."
        return Move("failed", why, {"error": why, "exit_code": 3})
    if sight.parent == "stopped":
        why = f"{job.after} has to succeed first, and it was stopped."
        return Move("stopped", why, {"error": why})
    if sight.never is not None and sight.never_s >= (COMES_BACK_S if job.attempt else NEVER_FITS_S):
        return Move("failed", sight.never, {"error": sight.never, "exit_code": 3})
    if sight.grant is None:
        return None
    changes = {"attempt": job.attempt + 1, "grant": sight.grant, "started_at": job.started_at or now, "error": None}
    said = f"Attempt {job.attempt + 1} starts with {sight.grant.cpus} CPUs and {sight.grant.gpus} GPUs."
    return Move("starting", said, changes)


def _from_starting(job: Job, sight: Sight, now: float) -> Move | None:
    if sight.result is not None and sight.result.state == "failed":
        return _ended(sight.result)
    if sight.begun or sight.result is not None or sight.ray == "running":
        return Move("running", "Its process is at work.")
    if job.stop_requested:
        return Move("stopping", "A stop was asked for while it started.")
    if sight.ray == "ended" and sight.gone_s >= SETTLE_S:
        return _lost(f"Its process ended before it began. {sight.last_words}")
    if sight.ray == "absent" and now - job.moved_at >= START_LIMIT_S:
        return _lost("Ray did not take it.")
    return None


def _from_running(job: Job, sight: Sight, now: float) -> Move | None:
    del now
    if sight.result is not None:
        if sight.result.state != "stopped":
            return _ended(sight.result)
        if job.stop_requested:
            return Move("stopping", "It ended on request.")
        return _lost("It was interrupted from outside.", uncounted=job.uncounted + 1)
    if sight.ray in ("ended", "absent") and sight.gone_s >= SETTLE_S:
        if sight.told_to_stop and not job.stop_requested:
            return _lost("The service ended, and its process with it.", uncounted=job.uncounted + 1)
        return _lost(f"Its process is gone without a result. {sight.last_words}")
    if job.stop_requested:
        return Move("stopping", "A stop was asked for.")
    return None


def _from_stopping(job: Job, sight: Sight, now: float) -> Move | None:
    del job, now
    if sight.result is not None:
        return _ended(sight.result)
    if sight.ray in ("ended", "absent") and sight.gone_s >= SETTLE_S:
        return Move("stopped", "Its process ended without a last word.", {"error": "Stopped.", "exit_code": 130})
    return None


def _from_lost(job: Job, sight: Sight, now: float) -> Move | None:
    interrupted = sight.result is not None and sight.result.state == "stopped"
    if sight.result is not None and (not interrupted or job.stop_requested):
        return _ended(sight.result)
    if sight.ray == "running" and sight.result is None:
        return Move("running", "It is there again.", {"error": None})
    if sight.ray not in ("ended", "absent"):
        return None
    if job.stop_requested:
        return Move("stopped", "Stopped.", {"error": "Stopped.", "exit_code": 130})
    if now - job.moved_at < (_until_taken_away(sight) if interrupted else LOST_GRACE_S):
        return None
    if job.attempt < job.last_attempt:
        return Move("queued", f"Attempt {job.attempt} was lost; the next one waits for its turn.")
    why = f"{job.error or 'Its process was lost.'} That was attempt {job.attempt} of at most {job.last_attempt}."
    return Move("failed", why, {"error": why, "exit_code": 1})


def _until_taken_away(sight: Sight) -> float:
    """Seconds that an interrupted job waits: none, once Ray is another one, which does not know it."""
    return 0.0 if sight.ray == "absent" else TAKEN_AWAY_S


def _ended(result: Result) -> Move:
    state: State = "failed" if result.state == "running" else result.state
    said = "Done." if state == "succeeded" else result.error or "It wrote no reason."
    return Move(state, said, {"error": result.error, "exit_code": result.exit_code, "result": result.facts})


def _lost(reason: str, **changes: Any) -> Move:
    return Move("lost", reason.strip(), {"error": reason.strip(), **changes})
