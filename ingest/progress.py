"""A run's record: what a driver writes while it works and what everybody else reads.

    RUN/ request.json  attempts/0001.json  events/0001/00000001.jsonl ...  progress/0001.json  result/0001.json

An attempt starts by a create-only put of `attempts/<n>.json`; all that its driver writes carries n, and readers
follow the highest n, so a driver cut off from the world cannot spoil its successor's run. Event segments are
numbered and create-only (object stores cannot append), closed after 1 s at first and 30 s later; `progress`
carries the latest second and is replaced whole. A stop is a file as well (`stop/<n>.json`), so that it reaches
every process of a run.
"""

import json
import os
import secrets
import socket
import time
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from ingest.errors import Interrupted, RefusedError
from ingest.storage import Place

FORMAT_VERSION = 1
FIRST_SEGMENT_S, LAST_SEGMENT_S = 1.0, 30.0
PROGRESS_EVERY_S = 0.5
STOP_POLL_S = 0.5

State = Literal["running", "succeeded", "failed", "stopped"]


class Record(BaseModel):
    """One written fact. Newer versions may add keys: readers ignore what they do not know."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Event(Record):
    """Something that happened: a whole sentence for people, the same as data for programs."""

    attempt: int
    seq: int
    at: float
    """Unix time in seconds, on the writer's clock."""
    kind: str
    """A word to filter by: started, phase, metrics, evaluated, checkpoint, quarantined, warning, stopped, failed."""
    text: str
    data: dict[str, Any] = {}


class Progress(Record):
    """The latest second of a run."""

    attempt: int
    seq: int
    at: float
    phase: str
    """What it is doing, in words: "converting", "training", "evaluating"."""
    done: int
    total: int | None = None
    unit: str
    """What `done` and `total` count: samples, steps, shards."""
    rate: float | None = None
    """Units a second over the last seconds."""
    seconds_left: float | None = None
    figures: dict[str, Any] = {}
    """The figures that matter to this kind of run, e.g. loss, top1_error, samples, quarantined, bytes."""


class Result(Record):
    """How an attempt ended. Its presence means: ended."""

    attempt: int
    at: float
    state: State
    exit_code: int
    error: str | None = None
    facts: dict[str, Any] = {}
    """The final figures, as `--json` prints them."""


def new_run_id(kind: str) -> str:
    """A unique, sortable run id: `20261124-093015-train-4f1a2b`. Matches [a-z0-9-]{1,64}."""
    return f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{kind}-{secrets.token_hex(3)}"


def put_request(place: Place, kind: str, request: dict[str, Any]) -> None:
    """Write what a run was asked for, once: what is there already stays."""
    place.put_new("request.json", to_json({"format_version": FORMAT_VERSION, "kind": kind, **request}))


def put_allowed(place: Place, attempt: int, allowed: dict[str, Any]) -> None:
    """Write the places that an attempt may use, as they are allowed when it starts."""
    place.put_new(_allowed_path(attempt), to_json(allowed))


def ask_to_stop(place: Place, attempt: int) -> None:
    """Ask every process of an attempt to end at its next safe point."""
    place.put_new(_stop_path(attempt), b"{}\n")


class RunWriter:
    """The one writer of an attempt (the driver; in training, rank 0 while the network trains)."""

    def __init__(self, place: Place, attempt: int, seq: int = 0, segment: int = 0) -> None:
        self.place = place
        self.attempt = attempt
        self._seq = seq
        self._segment = segment
        self._pending: list[Event] = []
        self._segment_opened = 0.0
        self._segment_s = FIRST_SEGMENT_S
        self._progress_at = 0.0
        self._stop_polled = 0.0
        self._stopping = False
        self._rate = _Rate()

    @classmethod
    def begin(
        cls, place: Place, kind: str, request: dict[str, Any], *, attempt: int | None = None, **facts: Any
    ) -> "RunWriter":
        """Start the next attempt, or the one that is told. Raises RefusedError if another driver took its number.

        `request` (kind, settings, source, dataset ...) is written once, by the first attempt; `facts` go into
        the attempt's own file: the checkpoint it resumes from, execution settings, versions.
        """
        put_request(place, kind, request)
        attempt = attempt or RunReader(place).latest_attempt() + 1
        record = {
            "format_version": FORMAT_VERSION,
            "attempt": attempt,
            "kind": kind,
            "started_at": time.time(),
        }
        record |= {"host": socket.gethostname(), "pid": os.getpid(), **facts}
        if not place.put_new(_attempt_path(attempt), to_json(record)):
            raise RefusedError(f"{place.uri}: another driver started attempt {attempt} already; it goes on")
        writer = cls(place, attempt)
        writer.event("started", f"Attempt {attempt} started on {socket.gethostname()}.")
        writer.flush()
        return writer

    @classmethod
    def join(cls, place: Place, attempt: int) -> "RunWriter":
        """Go on writing an attempt in another process (rank 0), after what its driver has written so far."""
        writer = cls(place, attempt)
        writer.resume_after_others()
        return writer

    def resume_after_others(self) -> None:
        """Go on after what another process has written meanwhile (rank 0, while the network trained)."""
        reader = RunReader(self.place)
        segments = [int(f.path[-14:-6]) for f in self.place.files(f"events/{self.attempt:04d}")]
        seen = reader.progress(self.attempt)
        last = max((e.seq for e in reader.events(self.attempt)), default=0)
        self._seq = max(last, seen.seq if seen else 0, self._seq)
        self._segment = max(segments, default=0)

    def event(self, kind: str, text: str, **data: Any) -> None:
        """Note that something happened. Reaches readers within the segment's seconds, or at `flush`."""
        now = time.time()
        self._seq += 1
        if not self._pending:
            self._segment_opened = now
        self._pending.append(Event(attempt=self.attempt, seq=self._seq, at=now, kind=kind, text=text, data=data))
        self._flush_if_due(now)

    def progress(
        self, phase: str, done: int, total: int | None, unit: str, *, force: bool = False, **figures: Any
    ) -> None:
        """Replace the progress; calls that come faster than twice a second are left out unless forced."""
        now = time.time()
        self._rate.note(phase, now, done)
        if not force and not self.progress_due():
            return
        self._progress_at = now
        self._seq += 1
        rate = self._rate.per_second()
        left = (total - done) / rate if total is not None and rate else None
        progress = Progress(
            attempt=self.attempt, seq=self._seq, at=now, phase=phase, done=done, total=total, unit=unit,
            rate=rate, seconds_left=left, figures=figures,
        )  # fmt: skip
        self.place.replace(f"progress/{self.attempt:04d}.json", to_json(progress.model_dump()))
        self._flush_if_due(now)

    def progress_due(self) -> bool:
        """True if the next progress will be written: figures that cost something are worth gathering."""
        return time.time() - self._progress_at >= PROGRESS_EVERY_S

    def flush(self) -> None:
        """Close the event segment that is open. Raises Interrupted if a later attempt has taken over."""
        if self._pending:
            lines = b"".join(json.dumps(e.model_dump()).encode() + b"\n" for e in self._pending)
            self._segment += 1
            while not self.place.put_new(f"events/{self.attempt:04d}/{self._segment:08d}.jsonl", lines):
                self._segment += 1
            self._pending = []
            self._segment_s = min(self._segment_s * 2, LAST_SEGMENT_S)
        latest = RunReader(self.place).latest_attempt()  # Attempts in between may have been lost before they began.
        if latest > self.attempt:
            raise Interrupted(f"{self.place.uri}: attempt {latest} has taken over; attempt {self.attempt} ends")

    def finish(self, state: State, exit_code: int, error: str | None = None, **facts: Any) -> None:
        """Write how the attempt ended, once, last."""
        self.flush()
        result = Result(
            attempt=self.attempt, at=time.time(), state=state, exit_code=exit_code, error=error, facts=facts
        )
        self.place.put_new(f"result/{self.attempt:04d}.json", to_json(result.model_dump()))

    def request_stop(self) -> None:
        """Ask every process of this attempt to end at its next safe point."""
        self._stopping = True
        ask_to_stop(self.place, self.attempt)

    def stop_requested(self) -> bool:
        """True once somebody asked for a stop; looks at the run folder at most twice a second."""
        now = time.monotonic()
        if not self._stopping and now - self._stop_polled >= STOP_POLL_S:
            self._stop_polled = now
            self._stopping = self.place.exists(_stop_path(self.attempt))
        return self._stopping

    def _flush_if_due(self, now: float) -> None:
        if self._pending and now - self._segment_opened >= self._segment_s:
            self.flush()


class RunReader:
    """A run's record, read by anyone: the service, the command line, a person's script."""

    def __init__(self, place: Place) -> None:
        self.place = place

    def latest_attempt(self) -> int:
        """Number of the latest attempt; 0 if none has started."""
        return max((int(f.path[-9:-5]) for f in self.place.files("attempts")), default=0)

    def has_begun(self, attempt: int) -> bool:
        """True once the attempt's driver has put its first file."""
        return self.place.exists(_attempt_path(attempt))

    def was_told_to_stop(self, attempt: int) -> bool:
        """True once somebody asked the attempt to end at its next safe point."""
        return self.place.exists(_stop_path(attempt))

    def request(self) -> dict[str, Any]:
        """What was asked for. Raises FileNotFoundError if this is no run folder."""
        return self._read("request.json")

    def allowed(self, attempt: int) -> dict[str, Any]:
        """The places that an attempt may use; empty if nobody said."""
        try:
            return self._read(_allowed_path(attempt))
        except FileNotFoundError:
            return {}

    def attempt(self, attempt: int) -> dict[str, Any]:
        """The facts an attempt started with."""
        return self._read(_attempt_path(attempt))

    def progress(self, attempt: int | None = None) -> Progress | None:
        """The latest second of an attempt (of the latest unless told), None before the first."""
        try:
            return Progress(**self._read(f"progress/{self._number(attempt):04d}.json"))
        except FileNotFoundError:
            return None

    def result(self, attempt: int | None = None) -> Result | None:
        """How an attempt ended, None while it has not."""
        try:
            return Result(**self._read(f"result/{self._number(attempt):04d}.json"))
        except FileNotFoundError:
            return None

    def events(self, attempt: int | None = None, after_seq: int = 0) -> Iterator[Event]:
        """Events of one attempt (the latest unless told) with a sequence number above `after_seq`, in order."""
        for file in self.place.files(f"events/{self._number(attempt):04d}"):
            for line in self.place.get(file.path).splitlines():
                event = Event(**json.loads(line))
                if event.seq > after_seq:
                    yield event

    def _number(self, attempt: int | None) -> int:
        return self.latest_attempt() if attempt is None else attempt

    def _read(self, path: str) -> dict[str, Any]:
        record: dict[str, Any] = json.loads(self.place.get(path))
        if record.get("format_version", 1) > FORMAT_VERSION:
            raise RefusedError(
                f"{self.place.name(path)}: written by a newer Tench (format {record['format_version']}, "
                f"this one reads {FORMAT_VERSION}); update Tench"
            )
        return record


class _Rate:
    """Units a second over the last ten seconds of one phase."""

    WINDOW_S = 10.0

    def __init__(self) -> None:
        self._phase = ""
        self._notes: list[tuple[float, int]] = []

    def note(self, phase: str, now: float, done: int) -> None:
        if phase != self._phase:
            self._phase, self._notes = phase, []
        self._notes.append((now, done))
        while len(self._notes) > 2 and now - self._notes[0][0] > self.WINDOW_S:
            self._notes.pop(0)

    def per_second(self) -> float | None:
        (first_at, first), (last_at, last) = self._notes[0], self._notes[-1]
        return (last - first) / (last_at - first_at) if last_at > first_at and last > first else None


def to_json(value: Any) -> bytes:
    """Readable JSON with a final newline."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def _attempt_path(attempt: int) -> str:
    return f"attempts/{attempt:04d}.json"


def _allowed_path(attempt: int) -> str:
    return f"allowed/{attempt:04d}.json"


def _stop_path(attempt: int) -> str:
    return f"stop/{attempt:04d}.json"
