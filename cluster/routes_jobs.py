"""Routes of jobs: ask for one, list them, stop, resume, clone."""

import time
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Header, Query, Request
from fastapi.responses import JSONResponse

from cluster.jobs import State
from cluster.launcher import Nodes
from cluster.ledger import Capacity
from cluster.problems import Problem
from cluster.requests import checked_settings, dry_run, key_of, new_job
from cluster.service import JobId, Service
from cluster.settings import KINDS, JobRequest, Kind
from cluster.store import KeyTaken, Superseded

PAGE = 100
WISH_TRIES = 20


def add_jobs(app: FastAPI, service: Service) -> None:
    """Ask for jobs, and look at them."""

    @app.post("/v1/jobs", status_code=201)
    def submit(
        body: JobRequest,
        request: Request,
        dry: Annotated[bool, Query(alias="dry_run")] = False,
        idempotency_key: Annotated[str | None, Header()] = None,
    ) -> Any:
        """Ask for a job. With `?dry_run=true`: what it would do, and nothing is started."""
        settings = checked_settings(body, service.store, service.roots)
        if dry:
            return JSONResponse(dry_run(body, settings, _capacity(service.ray_note())))
        caller = request.scope["state"]["caller"]
        key = key_of(idempotency_key, body, caller)
        try:
            job, made = service.store.add(new_job(body, settings, caller), key)
        except KeyTaken:
            raise Problem(422, "This Idempotency-Key came with another body before; take a new one.") from None
        return JSONResponse(service.view(job), 201 if made else 200)

    @app.get("/v1/jobs")
    def list_jobs(
        state: State | None = None,
        kind: Kind | None = None,
        cursor: str | None = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = PAGE,
    ) -> dict[str, Any]:
        """Jobs, newest first; `next` is the cursor of the next page, null on the last."""
        if cursor is not None:
            service.job(cursor)
        found = service.store.jobs(limit + 1, cursor, state, kind)
        page = service.views(found[:limit])
        return {"jobs": page, "next": page[-1]["id"] if len(found) > limit else None}

    @app.get("/v1/jobs/{job_id}")
    def show(job_id: JobId) -> dict[str, Any]:
        """One job."""
        return service.view(service.job(job_id))

    @app.get("/v1/kinds")
    def kinds() -> dict[str, Any]:
        """The settings of each kind of job, as JSON schema: from it come the page's forms."""
        return {kind: model.model_json_schema() for kind, model in KINDS.items()}


def add_wishes(app: FastAPI, service: Service) -> None:
    """What one may wish of a job that is there."""

    @app.post("/v1/jobs/{job_id}/stop")
    def stop(job_id: JobId) -> dict[str, Any]:
        """Ask a job to stop at its next safe point; what it has finished is kept."""
        return _wish(service, job_id, "stop")

    @app.post("/v1/jobs/{job_id}/resume")
    def resume(job_id: JobId) -> dict[str, Any]:
        """Queue a failed or stopped job again: it goes on from what it has finished."""
        return _wish(service, job_id, "resume")

    @app.post("/v1/jobs/{job_id}/clone", status_code=201)
    def clone(job_id: JobId, request: Request) -> dict[str, Any]:
        """A new job with the settings of another one."""
        job = service.job(job_id)
        body = JobRequest(kind=job.kind, settings=job.settings, priority=job.priority, name=job.name)
        settings = checked_settings(body, service.store, service.roots)
        made, _ = service.store.add(new_job(body, settings, request.scope["state"]["caller"]))
        return service.view(made)


def _wish(service: Service, job_id: str, what: Literal["stop", "resume"]) -> dict[str, Any]:
    """Note a wish; the watcher may move the job meanwhile, then it is read again."""
    for _ in range(WISH_TRIES):
        job = service.job(job_id)
        if what == "stop" and job.has_ended:
            raise Problem(409, f"Job {job_id} has ended ({job.state}); there is nothing to stop.")
        if what == "resume" and job.state not in ("failed", "stopped"):
            raise Problem(409, f"Job {job_id} is {job.state}; only a failed or stopped job can be resumed.")
        try:
            after = service.store.wish(job, stop=what == "stop", resume=what == "resume")
            return service.view(after)
        except Superseded:
            time.sleep(0.01)
    raise Problem(503, f"Job {job_id} changes too fast; ask again.")


def _capacity(note: dict[str, Any]) -> Capacity | None:
    return Nodes(tuple(note["nodes"])).capacity if note["reachable"] else None
