"""Rows of jobs for tests of the store and of what works with it."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

from cluster.jobs import Job
from cluster.store import Store

AT = 1_700_000_000.0
_numbers = itertools.count(1)


def new_job(job_id: str | None = None, **chosen: Any) -> Job:
    """A queued job, younger than those before it."""
    number = next(_numbers)
    job = Job(
        id=job_id or f"job-{number:06d}", kind="verify", name="", state="queued",
        settings={"dataset": "/data/größe", "deep": False}, after=None, priority=0, asked_by="local",
        created_at=AT + number, moved_at=AT + number,
    )  # fmt: skip
    return replace(job, **chosen)


def put_job(home: Path, **chosen: Any) -> str:
    """The id of a job that is in a service's store as if it had been asked for and moved on."""
    store = Store.open(str(home / "store.sqlite"))
    job, _ = store.add(new_job(**chosen))
    store.close()
    return job.id
