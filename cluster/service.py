"""What the routes of the service work with: store, Ray, run folders, roots; and a job as it is answered."""

import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from fastapi.responses import Response

from cluster import events
from cluster.access import Roots
from cluster.datasets import Library
from cluster.jobs import ADMITTED, Job
from cluster.launcher import RayJobs
from cluster.problems import Problem
from cluster.store import Store
from cluster.watcher import RAY_NOTE
from ingest.progress import Progress, RunReader
from ingest.storage import Place

JobId = str


@dataclass
class Service:
    """What the routes work with."""

    store: Store
    ray: RayJobs
    runs: Place
    roots: Roots
    stopping: threading.Event = field(default_factory=threading.Event)
    streams: int = 0

    def __post_init__(self) -> None:
        self.followers = events.Followers(self.runs)
        self.library = Library(self.roots.roots)

    def ray_note(self) -> dict[str, Any]:
        """What the watcher last saw of Ray."""
        note = self.store.read_note(RAY_NOTE)
        return note[0] if note is not None else {"reachable": False, "nodes": []}

    def job(self, job_id: JobId) -> Job:
        """A job. Raises Problem 404."""
        found = self.store.job(job_id)
        if found is None:
            raise Problem(404, f"There is no job {job_id!r}; GET /v1/jobs lists them.")
        return found

    def views(self, jobs: Sequence[Job]) -> list[dict[str, Any]]:
        """Jobs as they are answered."""
        reachable = self.ray_note()["reachable"]
        return [_view(job, RunReader(self.runs.inside(job.id)).progress(), reachable) for job in jobs]

    def view(self, job: Job) -> dict[str, Any]:
        """One job as it is answered."""
        return self.views([job])[0]

    def followed_view(self, job_id: JobId, follower: events.Follower) -> dict[str, Any] | None:
        """A job as its stream tells it, with the progress that its listeners share; None if it is gone."""
        job = self.store.job(job_id)
        return None if job is None else _view(job, follower.look().progress, self.ray_note()["reachable"])


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
    values["has_ended"] = job.has_ended and not job.resume_requested
    return values
