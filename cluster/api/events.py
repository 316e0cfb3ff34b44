"""What a job's page follows: the job, its events and its progress as server-sent events, over all attempts.

Many clients may follow one job, and cost little more than one: a `Follower` reads its run folder at most every
`EVERY_S` and each event segment once; a `Feed` looks at the job once for all who wait; what is told is put into words
once for all who are told the same.
"""

import asyncio
import json
import threading
import time
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, NamedTuple, TypeVar

from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event

from ingest.progress import Event, Progress, RunReader
from ingest.storage import Place

EVERY_S = 0.4
KEEPALIVE_S = 10.0
KEPT_RUNS = 64
MAX_EVENTS_AT_ONCE = 2000

JobView = dict[str, Any]
Mark = tuple[int, int]
"""(attempt, sequence number) of an event or a progress."""
T = TypeVar("T")


@dataclass(frozen=True)
class Seen:
    """What is known of a run at one moment: its events in order, the same as lines of JSON, its newest progress."""

    events: tuple[Event, ...] = ()
    lines: tuple[str, ...] = ()
    marks: tuple[Mark, ...] = ()
    progress: Progress | None = None

    def after(self, mark: Mark) -> range:
        """Which events lie above a mark: at most `MAX_EVENTS_AT_ONCE`, the oldest first."""
        first = bisect_right(self.marks, mark)
        return range(first, min(first + MAX_EVENTS_AT_ONCE, len(self.marks)))


class Follower:
    """Reads one run folder, a little further each time. Usable from any thread."""

    def __init__(self, place: Place) -> None:
        self._reader = RunReader(place)
        self._lock = threading.Lock()
        self._read_at = 0.0
        self._segments: set[str] = set()
        self._found: list[tuple[Mark, Event, str]] = []
        self._seen = Seen()

    def look(self) -> Seen:
        """Events of all attempts so far, in order, and the newest progress."""
        with self._lock:
            if time.monotonic() - self._read_at >= EVERY_S:
                self._read()
                self._read_at = time.monotonic()
            return self._seen

    def _read(self) -> None:
        attempt = self._reader.latest_attempt()
        place = self._reader.place
        # Progress first: an event that is older than it is then never missing from what is shown with it.
        progress = self._reader.progress(attempt) if attempt else None
        paths = [f.path for n in range(1, attempt + 1) for f in place.files(f"events/{n:04d}")]
        fresh = [path for path in paths if path not in self._segments]
        for path in fresh:
            for line in place.get(path).decode().splitlines():
                event = Event(**json.loads(line))
                self._found.append(((event.attempt, event.seq), event, json.dumps(event.model_dump())))
            self._segments.add(path)
        if fresh or progress != self._seen.progress:
            self._found.sort(key=lambda found: found[0])
            marks, events, lines = zip(*self._found, strict=True) if self._found else ((), (), ())
            self._seen = Seen(events, lines, marks, progress)


class _Kept(Generic[T]):
    """One of something for each run, made when it is first asked for; the most recently used ones are kept."""

    def __init__(self, make: Callable[[str], T]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, T] = OrderedDict()

    def of(self, run: str) -> T:
        """The one of a run id."""
        with self._lock:
            if run not in self._kept:
                self._kept[run] = self._make(run)
            self._kept.move_to_end(run)
            while len(self._kept) > KEPT_RUNS:
                self._kept.popitem(last=False)
            return self._kept[run]


class Followers(_Kept[Follower]):
    """The followers of the run folders of a place."""

    def __init__(self, runs: Place) -> None:
        super().__init__(lambda run: Follower(runs.inside(run)))


class Told(NamedTuple):
    """What a listener was told last: marks of an event and of a progress, the job's version and if it was unknown."""

    mark: Mark
    job: tuple[int, bool] | None = None
    progress: Mark | None = None


class Moment:
    """A job and its run at one moment, for all who listen. For the thread of the event loop."""

    def __init__(self, job: JobView, seen: Seen) -> None:
        self.job, self.seen = job, seen
        self._messages: dict[Told, tuple[bytes, Told]] = {}

    def after(self, told: Told) -> tuple[bytes, Told]:
        """The messages for a listener, empty if there is nothing new, and what it was told then."""
        if told not in self._messages:
            self._messages[told] = self._new(told)
        return self._messages[told]

    def _new(self, told: Told) -> tuple[bytes, Told]:
        messages, mark, move = [], told.mark, self.job["move"]
        job = (self.job["version"], self.job["unknown"])
        if job != told.job:
            messages.append(_message("job", self._job_line, move, mark))
        for number in self.seen.after(told.mark):
            mark = self.seen.marks[number]
            messages.append(_message("event", self.seen.lines[number], move, mark))
        progress = None if self.seen.progress is None else (self.seen.progress.attempt, self.seen.progress.seq)
        if progress is not None and progress != told.progress:
            messages.append(_message("progress", self._progress_line, move, mark))
        return b"".join(messages), Told(mark, job, progress)

    @cached_property
    def _job_line(self) -> str:
        return json.dumps(self.job)

    @cached_property
    def _progress_line(self) -> str:
        return "" if self.seen.progress is None else json.dumps(self.seen.progress.model_dump())


class Feed:
    """The moments of one job, one after another: a look each, shared by all who wait for it."""

    def __init__(self, look: Callable[[], tuple[JobView, Seen] | None]) -> None:
        self._look = look
        self._looked_at = 0.0
        self._next: asyncio.Task[Moment | None] | None = None

    async def next(self) -> Moment | None:
        """The job as it is after now, at most `EVERY_S` later; None if it is gone."""
        if self._next is None or self._next.done():
            self._next = asyncio.create_task(self._after_a_pause())
        return await asyncio.shield(self._next)  # Who leaves does not end it for the others.

    async def _after_a_pause(self) -> Moment | None:
        await asyncio.sleep(max(self._looked_at + EVERY_S - time.monotonic(), 0.0))
        self._looked_at = time.monotonic()
        found = await asyncio.to_thread(self._look)
        return None if found is None else Moment(*found)


class Feeds(_Kept[Feed]):
    """The feeds of jobs; `look` gives a job and what is known of its run."""

    def __init__(self, look: Callable[[str], tuple[JobView, Seen] | None]) -> None:
        super().__init__(lambda job: Feed(lambda: look(job)))


def parse_mark(text: str) -> Mark:
    """The mark of an event id `<move>.<attempt>.<seq>`, or of `<attempt>.<seq>`. Raises ValueError."""
    parts = [int(part) for part in text.split(".")]
    if len(parts) not in (2, 3) or min(parts) < 0:
        raise ValueError(text)
    return parts[-2], parts[-1]


async def stream(feed: Feed, mark: Mark, ended: Callable[[], bool]) -> AsyncIterator[bytes]:
    """Messages `job`, `event` and `progress` until the job has ended and all was told, or the service ends.

    After a break, a client goes on from the id of its last message: events come once, job and progress as they are.
    """
    told, spoke_at = Told(mark), time.monotonic()
    while not ended():
        moment = await feed.next()
        if moment is None:
            return
        messages, told = moment.after(told)
        if messages:
            yield messages
            spoke_at = time.monotonic()
        elif moment.job["has_ended"]:
            return
        elif time.monotonic() - spoke_at >= KEEPALIVE_S:
            yield KEEPALIVE_COMMENT
            spoke_at = time.monotonic()


def _message(kind: str, line: str, move: int, mark: Mark) -> bytes:
    return format_sse_event(event=kind, data_str=line, id=f"{move}.{mark[0]}.{mark[1]}")
