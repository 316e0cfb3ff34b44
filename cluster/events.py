"""What a job's page follows: the job, its events and its progress as server-sent events, over all attempts.

Many clients may follow one job: a `Follower` reads its run folder at most every `EVERY_S`, for all of them, and each
event segment once.
"""

import asyncio
import json
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event

from ingest.progress import Event, Progress, RunReader
from ingest.storage import Place

EVERY_S = 0.4
KEEPALIVE_S = 10.0
KEPT_FOLLOWERS = 64
MAX_EVENTS_AT_ONCE = 2000

JobView = dict[str, Any]
Mark = tuple[int, int]
"""(attempt, sequence number) of an event or a progress."""


@dataclass(frozen=True)
class Seen:
    """What is known of a run at one moment."""

    events: tuple[Event, ...]
    progress: Progress | None


class Follower:
    """Reads one run folder, a little further each time. Usable from any thread."""

    def __init__(self, place: Place) -> None:
        self._reader = RunReader(place)
        self._lock = threading.Lock()
        self._read_at = 0.0
        self._segments: set[str] = set()
        self._events: list[Event] = []
        self._seen = Seen((), None)

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
        fresh = [f.path for n in range(1, attempt + 1) for f in place.files(f"events/{n:04d}")]
        for path in fresh:
            if path not in self._segments:
                self._events += [Event(**json.loads(line)) for line in place.get(path).splitlines()]
                self._segments.add(path)
        if len(self._events) != len(self._seen.events) or progress != self._seen.progress:
            self._events.sort(key=lambda event: (event.attempt, event.seq))
            self._seen = Seen(tuple(self._events), progress)


class Followers:
    """One follower a run, the most recently used ones kept."""

    def __init__(self, runs: Place) -> None:
        self._runs = runs
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, Follower] = OrderedDict()

    def of(self, run: str) -> Follower:
        """The follower of a run id."""
        with self._lock:
            found = self._kept.pop(run, None) or Follower(self._runs.inside(run))
            self._kept[run] = found
            while len(self._kept) > KEPT_FOLLOWERS:
                self._kept.popitem(last=False)
            return found


def events_after(seen: Seen, mark: Mark) -> list[Event]:
    """Events above a mark, at most `MAX_EVENTS_AT_ONCE` of them, the oldest first."""
    return [e for e in seen.events if (e.attempt, e.seq) > mark][:MAX_EVENTS_AT_ONCE]


def parse_mark(text: str) -> Mark:
    """The mark of an event id `<move>.<attempt>.<seq>`, or of `<attempt>.<seq>`. Raises ValueError."""
    parts = [int(part) for part in text.split(".")]
    if len(parts) not in (2, 3) or min(parts) < 0:
        raise ValueError(text)
    return parts[-2], parts[-1]


async def stream(
    look_at_job: Callable[[], JobView | None], follower: Follower, mark: Mark, ended: Callable[[], bool]
) -> AsyncIterator[bytes]:
    """Messages `job`, `event` and `progress` until the job has ended and all was told, or the service ends.

    After a break, a client goes on from the id of its last message: events come once, job and progress as they are.
    """
    job_told, progress_told, spoke_at = None, None, time.monotonic()
    while not ended():
        job = await asyncio.to_thread(look_at_job)
        seen = await asyncio.to_thread(follower.look)
        if job is None:
            return
        messages: list[bytes] = []
        if job["version"] != job_told:
            job_told = job["version"]
            messages.append(_message("job", job, job["move"], mark))
        for event in events_after(seen, mark):
            mark = (event.attempt, event.seq)
            messages.append(_message("event", event.model_dump(), job["move"], mark))
        if seen.progress is not None and seen.progress != progress_told:
            progress_told = seen.progress
            messages.append(_message("progress", seen.progress.model_dump(), job["move"], mark))
        if messages:
            yield b"".join(messages)
            spoke_at = time.monotonic()
        elif job["has_ended"]:
            return
        elif time.monotonic() - spoke_at >= KEEPALIVE_S:
            yield KEEPALIVE_COMMENT
            spoke_at = time.monotonic()
        await asyncio.sleep(EVERY_S)


def _message(kind: str, data: dict[str, Any], move: int, mark: Mark) -> bytes:
    return format_sse_event(event=kind, data_str=json.dumps(data), id=f"{move}.{mark[0]}.{mark[1]}")
