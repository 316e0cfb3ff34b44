"""What the routes of the service work with: store, Ray, run folders, roots; and a job as it is answered."""

import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from fastapi.responses import Response

from cluster.access import Roots
from cluster.api import events
from cluster.api.problems import Problem
from cluster.api.rates import Streams
from cluster.datasets import Library
from cluster.jobs import ADMITTED, Job
from cluster.launcher import RayJobs
from cluster.settings import RUN_ID
from cluster.store import Store
from cluster.watcher import RAY_NOTE
from ingest.progress import Progress, RunReader
from ingest.storage import Place

JobId = str
MAX_STREAMS, MAX_STREAMS_OF_ONE = 500, 300


@dataclass
class Service:
    """What the routes work with."""

    store: Store
    ray: RayJobs
    runs: Place
    roots: Roots
    streams: Streams = field(default_factory=lambda: Streams(MAX_STREAMS, MAX_STREAMS_OF_ONE))
    stopping: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.followers = events.Followers(self.runs)
        self.library = Library(self.roots.roots)
        self.feeds = events.Feeds(self._followed)

    def ray_note(self) -> dict[str, Any]:
        """What the watcher last saw of Ray."""
        note = self.store.read_note(RAY_NOTE)
        return note[0] if note is not None else {"reachable": False, "nodes": []}

    def watcher_silence_s(self) -> float:
        """Seconds since the watcher, of whichever process it is, wrote to the store; infinite if it never did."""
        note = self.store.read_note(RAY_NOTE)
        return max(time.time() - note[1], 0.0) if note is not None else float("inf")

    def job(self, job_id: JobId) -> Job:
        """A job. Raises Problem 404."""
        found = self.store.job(job_id) if RUN_ID.fullmatch(job_id) else None
        if found is None:
            raise Problem(404, f"There is no job {job_id!r}; GET /v1/jobs lists them.")
        return found

    def progress(self, job_id: JobId) -> Progress | None:
        """The latest second of a job's newest attempt."""
        return RunReader(self.runs.inside(job_id)).progress()

    def views(self, jobs: Sequence[Job]) -> list[dict[str, Any]]:
        """Jobs as they are answered."""
        reachable = self.ray_note()["reachable"]
        return [_view(job, self.progress(job.id), reachable) for job in jobs]

    def view(self, job: Job) -> dict[str, Any]:
        """One job as it is answered."""
        return self.views([job])[0]

    def _followed(self, job_id: JobId) -> tuple[dict[str, Any], events.Seen] | None:
        """A job and what is known of its run, as its stream tells them; None if it is gone.

        The job first: what a run wrote before its job was seen to have ended is then never missed.
        """
        job = self.store.job(job_id)
        if job is None:
            return None
        seen = self.followers.of(job_id).look()
        return _view(job, seen.progress, self.ray_note()["reachable"]), seen


def png_response(data: bytes | None, cache: str) -> Response:
    """A picture as an answer. Raises Problem 404 without one."""
    if data is None:
        raise Problem(404, "There is no such picture (yet).")
    return Response(data, media_type="image/png", headers={"Cache-Control": cache})


def _view(job: Job, progress: Progress | None, reachable: bool) -> dict[str, Any]:
    """The row, the latest progress, and whether Ray is out of reach while the job runs."""
    values = asdict(job)
    values["progress"] = progress.model_dump() if progress is not None else None
    values["unknown"] = job.state in ADMITTED and not reachable
    values["has_ended"] = job.is_over
    values["last_attempt"] = job.last_attempt
    return values
