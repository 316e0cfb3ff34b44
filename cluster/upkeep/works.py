"""What was asked for, seen the same way whoever did the work: jobs of a store, and runs of the command line in HOME/runs.

A `Work` says what it names and whether it is over; whoever removes anything decides by these.
"""

import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from cluster.jobs import Job
from cluster.settings import PLACES, RUN_BESIDE, RUN_ID
from cluster.store import Store
from ingest.errors import TenchError
from ingest.progress import RunReader
from ingest.storage import REMOTE_SCHEMES, Place

PAGE = 1000
GOES_ON = frozenset({"ingest", "recentre", "repair", "retry", "train"})
"""Kinds that go on from what they have finished, so that it is worth something after they stopped or failed."""


@dataclass(frozen=True, slots=True)
class Work:
    """A job, or a run of the command line. Times are Unix seconds."""

    id: str
    kind: str
    state: str
    """As a job's state; a run of the command line is running, succeeded, failed or stopped."""
    settings: dict[str, Any]
    ended_at: float | None
    """None while it may still do something, or is asked to."""
    after: str | None = None
    is_job: bool = False
    mark: tuple[Any, ...] = ()
    """Differs as soon as anything has happened to it."""

    @property
    def can_go_on(self) -> bool:
        """Whether it stopped or failed with something finished that it could go on from."""
        return self.kind in GOES_ON and self.state in ("failed", "stopped")

    def places(self) -> Iterator[str]:
        """The places that it works on, in full: the dataset, what that is made of, what is made of it."""
        for name in PLACES:
            value = self.settings.get(name)
            if isinstance(value, str) and value and not RUN_BESIDE.fullmatch(value):
                yield whole(value)

    def runs(self, folder: Path) -> frozenset[str]:
        """Ids of the works that it names, whose run folders lie in `folder`."""
        named = [self.after, self.settings.get("run"), self.settings.get("initial"), *self.settings.get("runs", ())]
        return frozenset(run for value in named if value and (run := _run_named(str(value), folder))) - {self.id}


def read_works(runs: Path, store: str) -> list[Work]:
    """The jobs of a store (none if its file is not there), and the runs in a folder that are no jobs of it."""
    jobs = [] if "://" not in store and not Path(store).exists() else _read_jobs(store)
    return works_of(jobs, runs)


def works_of(jobs: list[Job], runs: Path) -> list[Work]:
    """The same, of jobs that were read already."""
    known = {job.id for job in jobs}
    folders = run_folders(runs)
    return [_work_of_job(job) for job in jobs] + [read_run(folder) for folder in folders if folder.name not in known]


def all_jobs(store: Store) -> list[Job]:
    """Every job of a store, newest first."""
    found: list[Job] = []
    while page := store.jobs(PAGE, found[-1].id if found else None):
        found += page
    return found


def run_folders(runs: Path) -> list[Path]:
    """The folders in HOME/runs that are records of runs; links are none."""
    if not runs.is_dir():
        return []
    found = [p for p in runs.iterdir() if RUN_ID.fullmatch(p.name) and not p.is_symlink()]
    return sorted(p for p in found if (p / "request.json").is_file() or (p / "attempts").is_dir())


def read_run(folder: Path) -> Work:
    """A run as its folder tells of it. What cannot be read counts as not ended: then nobody removes it."""
    reader = RunReader(Place(folder))
    try:
        request = reader.request() if (folder / "request.json").is_file() else {}
        attempt = reader.latest_attempt()
        result = reader.result(attempt) if attempt else None
        facts = reader.attempt(attempt) if attempt else {}
    except (TenchError, ValueError, TypeError, OSError):
        return Work(folder.name, "", "running", {}, None)
    state: str = result.state if result is not None else "running"
    ended_at = result.at if result is not None else None
    if result is None and (not attempt or _is_dead(facts)):
        state, ended_at = "stopped", _last_written(folder)
    settings = request.get("settings", {})
    return Work(folder.name, request.get("kind", ""), state, settings, ended_at, mark=(attempt, state))


def whole(uri: str) -> str:
    """A place in full, links of this machine followed: two names of one folder are the same."""
    return uri.rstrip("/") if uri.startswith(REMOTE_SCHEMES) else os.path.realpath(Place(uri).uri)


def _work_of_job(job: Job) -> Work:
    ended_at = (job.ended_at or job.moved_at) if job.is_over else None
    return Work(
        job.id, job.kind, job.state, job.settings, ended_at, job.after, is_job=True, mark=(job.state, job.version)
    )


def _read_jobs(place: str) -> list[Job]:
    store = Store.open(place)
    try:
        return all_jobs(store)
    finally:
        store.close()


def _run_named(value: str, folder: Path) -> str | None:
    """The id of a run that is named by its id, by `run:ID`, or by its folder."""
    if beside := RUN_BESIDE.fullmatch(value):
        return beside[1]
    if RUN_ID.fullmatch(value):
        return value
    if value.startswith(REMOTE_SCHEMES):
        return None
    inside = Path(whole(value))
    runs = Path(os.path.realpath(folder))
    return inside.relative_to(runs).parts[0] if runs in inside.parents else None


def _is_dead(attempt: dict[str, Any]) -> bool:
    """Whether the process of an attempt was one of this machine and is gone."""
    if attempt.get("host") != socket.gethostname():
        return False
    try:
        return bool(psutil.Process(attempt["pid"]).create_time() > attempt["started_at"] + 1)
    except psutil.NoSuchProcess:
        return True
    except (psutil.Error, KeyError):
        return False


def _last_written(folder: Path) -> float:
    times = [os.lstat(os.path.join(where, name)).st_mtime for where, _, names in os.walk(folder) for name in names]
    return max(times, default=folder.stat().st_mtime)
