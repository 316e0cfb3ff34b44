"""Routes of jobs: ask for one, list them, stop, resume, clone."""

import time
from typing import Annotated, Any, Literal

from fastapi import Body, FastAPI, Header, Query, Request
from fastapi.responses import JSONResponse

from cluster.api.examples import JOB_EXAMPLES
from cluster.api.problems import Problem, problems
from cluster.api.requests import checked_settings, dry_run, key_of, new_job
from cluster.api.service import JobId, Service
from cluster.api.views import DryRunView, JobsPage, JobView, MovesView
from cluster.jobs import Job, State
from cluster.launcher import Nodes
from cluster.ledger import Capacity
from cluster.settings import KINDS, JobRequest, Kind
from cluster.store import KeyTaken, Superseded

PAGE = 100
WISH_TRIES = 20
MADE_OR_NOT: dict[int | str, dict[str, Any]] = {
    200: {"model": JobView | DryRunView, "description": "The job of the same Idempotency-Key, or the dry run."},
    201: {"model": JobView, "description": "The new job."},
}
LIMIT = Query(ge=1, le=1000, description="Jobs on a page.")
CURSOR = Query(description="The `next` of the page before.")
DRY = Query(alias="dry_run", description="Only say what the job would do.")
KEY = Header(description="A word of yours, at most 200 characters: asking again with it is asking once.")


def add_jobs(app: FastAPI, service: Service) -> None:
    """Ask for jobs, and look at them."""

    @app.post("/v1/jobs", status_code=201, responses={**MADE_OR_NOT, **problems(422)})
    def submit(
        body: Annotated[JobRequest, Body(openapi_examples=JOB_EXAMPLES)],
        request: Request,
        dry: Annotated[bool, DRY] = False,
        idempotency_key: Annotated[str | None, KEY] = None,
    ) -> JSONResponse:
        """Ask for a job. With `?dry_run=true`: what it would do, and nothing is started."""
        settings = checked_settings(body, service.store, service.roots)
        if dry:
            return JSONResponse(dry_run(body, settings, _capacity(service.ray_note()), service.runs))
        caller = _caller(request)
        key = key_of(idempotency_key, body, caller)
        try:
            job, made = service.store.add(new_job(body, settings, caller), key)
        except KeyTaken:
            raise Problem(422, "This Idempotency-Key came with another body before; take a new one.") from None
        return JSONResponse(service.view(job), 201 if made else 200)

    @app.get("/v1/jobs", response_model=JobsPage, responses=problems(404))
    def list_jobs(
        state: State | None = None,
        kind: Kind | None = None,
        cursor: Annotated[str | None, CURSOR] = None,
        limit: Annotated[int, LIMIT] = PAGE,
    ) -> dict[str, Any]:
        """Jobs, newest first; `next` is the cursor of the next page, null on the last."""
        if cursor is not None:
            service.job(cursor)
        found = service.store.jobs(limit + 1, cursor, state, kind)
        page = service.views(found[:limit])
        return {"jobs": page, "next": page[-1]["id"] if len(found) > limit else None}

    @app.get("/v1/jobs/{job_id}", response_model=JobView, responses=problems(404))
    def show(job_id: JobId) -> dict[str, Any]:
        """One job."""
        return service.view(service.job(job_id))

    @app.get("/v1/jobs/{job_id}/moves", response_model=MovesView, responses=problems(404))
    def moves(job_id: JobId) -> dict[str, Any]:
        """What has become of a job: every change of its state, when, why, and on whose wish."""
        return {"moves": service.store.moves(service.job(job_id).id)}

    @app.get("/v1/kinds")
    def kinds() -> dict[str, dict[str, Any]]:
        """The settings of each kind of job, as JSON schema: from it come the page's forms."""
        return {kind: model.model_json_schema() for kind, model in KINDS.items()}


def add_wishes(app: FastAPI, service: Service) -> None:
    """What one may wish of a job that is there."""

    @app.post("/v1/jobs/{job_id}/stop", response_model=JobView, responses=problems(404, 409, 503))
    def stop(job_id: JobId, request: Request) -> dict[str, Any]:
        """Ask a job to stop at its next safe point; what it has finished is kept."""
        return _wish(service, job_id, "stop", _caller(request))

    @app.post("/v1/jobs/{job_id}/resume", response_model=JobView, responses=problems(403, 404, 409, 422, 503))
    def resume(job_id: JobId, request: Request) -> dict[str, Any]:
        """Queue a failed or stopped job again: it goes on from what it has finished."""
        checked_settings(_asked_again(service.job(job_id)), service.store, service.roots)
        return _wish(service, job_id, "resume", _caller(request))

    @app.post("/v1/jobs/{job_id}/clone", status_code=201, response_model=JobView, responses=problems(404))
    def clone(job_id: JobId, request: Request) -> dict[str, Any]:
        """A new job with the settings of another one."""
        job = service.job(job_id)
        body = _asked_again(job)
        settings = checked_settings(body, service.store, service.roots)
        made, _ = service.store.add(new_job(body, settings, _caller(request)))
        return service.view(made)


def _caller(request: Request) -> str:
    return str(request.scope["state"]["caller"])


def _asked_again(job: Job) -> JobRequest:
    """What the job was asked for, as a request of now."""
    same = {name: getattr(job, name) for name in ("kind", "settings", "priority", "name", "max_attempts")}
    return JobRequest.model_validate(same)


def _wish(service: Service, job_id: str, what: Literal["stop", "resume"], by: str) -> dict[str, Any]:
    """Note a wish; the watcher may move the job meanwhile, then it is read again."""
    for _ in range(WISH_TRIES):
        job = service.job(job_id)
        if what == "stop" and job.has_ended:
            raise Problem(409, f"Job {job_id} has ended ({job.state}); there is nothing to stop.")
        if what == "resume" and job.state not in ("failed", "stopped"):
            raise Problem(409, f"Job {job_id} is {job.state}; only a failed or stopped job can be resumed.")
        try:
            after = service.store.wish(job, by=by, stop=what == "stop", resume=what == "resume")
            return service.view(after)
        except Superseded:
            time.sleep(0.01)
    raise Problem(503, f"Job {job_id} changes too fast; ask again.")


def _capacity(note: dict[str, Any]) -> Capacity | None:
    return Nodes(tuple(note["nodes"])).capacity if note["reachable"] else None
