"""The routes: thin. They read a request, ask store, run folders or Ray, and answer; states are the watcher's."""

import threading
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Header, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from cluster import artifacts, events
from cluster.access import Roots
from cluster.datasets import Library
from cluster.jobs import ADMITTED, STATES, Job, State
from cluster.launcher import Nodes, RayJobs, RayUnreachable
from cluster.ledger import Capacity
from cluster.problems import Problem, problem_response
from cluster.requests import checked_settings, dry_run, key_of, new_job
from cluster.settings import KINDS, JobRequest, Kind
from cluster.store import KeyTaken, Store, Superseded
from cluster.watcher import RAY_NOTE
from cluster.words import problem_words
from ingest.errors import TenchError
from ingest.look import describe
from ingest.progress import Progress, RunReader
from ingest.storage import Place

DASHBOARD = Path(__file__).with_name("dashboard")
PAGE = 100
WISH_TRIES = 20
MAX_STREAMS = 500
UNCHANGING = "max-age=60"

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


def make_app(service: Service) -> FastAPI:
    """The application, without the guard at its door (`guard.Guard`)."""
    app = FastAPI(
        title="Tench", version="1", docs_url=None, redoc_url=None,
        description="ImageNet to a trained AlexNet: jobs, their progress, datasets, the cluster.",
    )  # fmt: skip
    app.state.service = service
    _add_errors(app)
    _add_jobs(app, service)
    _add_wishes(app, service)
    _add_runs(app, service)
    _add_datasets(app, service)
    _add_cluster(app, service)
    app.mount("/static", StaticFiles(directory=DASHBOARD), "static")
    return app


def _add_jobs(app: FastAPI, service: Service) -> None:
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


def _add_wishes(app: FastAPI, service: Service) -> None:
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


def _add_runs(app: FastAPI, service: Service) -> None:
    @app.get("/v1/jobs/{job_id}/events")
    def follow(
        job_id: JobId, after: str | None = None, last_event_id: Annotated[str | None, Header()] = None
    ) -> Response:
        """Server-sent events, resumed after Last-Event-ID; with `?after=<attempt>.<seq>` a JSON list instead."""
        service.job(job_id)
        mark = _mark(after if after is not None else last_event_id)
        follower = service.followers.of(job_id)
        if after is not None:
            found = events.events_after(follower.look(), mark)
            return JSONResponse({"events": [e.model_dump() for e in found]})
        if service.streams >= MAX_STREAMS:
            raise Problem(503, f"{MAX_STREAMS} streams are open; close some, or ask for /v1/jobs/{job_id} instead.")
        return StreamingResponse(
            _counted(service, job_id, follower, mark), headers={"Cache-Control": "no-store"},
            media_type="text/event-stream",
        )  # fmt: skip

    @app.get("/v1/jobs/{job_id}/logs", response_class=PlainTextResponse)
    def logs(job_id: JobId) -> str:
        """What the process of the newest attempt wrote."""
        job = service.job(job_id)
        if not job.attempt:
            raise Problem(404, "The job has not started yet, so there is no log.")
        try:
            return service.ray.logs(job.submission_id)
        except RayUnreachable as error:
            raise Problem(503, error.message) from error

    @app.get("/v1/jobs/{job_id}/metrics")
    def metrics(job_id: JobId) -> dict[str, Any]:
        """Curves of a training over all attempts: lists of [x, y] by name."""
        service.job(job_id)
        from trainer.figures import series_of

        return {"series": series_of(service.followers.of(job_id).look().events)}

    @app.get("/v1/jobs/{job_id}/artifacts/{name}")
    def artifact(job_id: JobId, name: str) -> Response:
        """Pictures of a job: kernels.png and curves.png of a training, mean.png and sheet.png of an ingest."""
        return _picture(artifacts.of_job(service.job(job_id), service.runs.inside(job_id), name), "no-cache")


def _add_datasets(app: FastAPI, service: Service) -> None:
    def found(dataset_id: str) -> dict[str, Any]:
        dataset = service.library.find(dataset_id)
        if dataset is None:
            raise Problem(404, f"There is no dataset {dataset_id!r} under {', '.join(service.roots.roots)}.")
        return dataset

    @app.get("/v1/datasets")
    def list_datasets() -> dict[str, Any]:
        """The sealed datasets under the service's roots."""
        return {"datasets": service.library.datasets()}

    @app.get("/v1/datasets/{dataset_id}")
    def show_dataset(dataset_id: str) -> dict[str, Any]:
        """Everything that is known of a dataset: counts, settings, statistics, quarantine, classes."""
        summary = found(dataset_id)
        return summary | describe(summary["uri"])

    @app.get("/v1/datasets/{dataset_id}/{name}")
    def dataset_picture(dataset_id: str, name: Literal["contact.png", "mean.png", "pca.png"]) -> Response:
        """Pictures of a dataset: contact sheet, mean image, principal colours."""
        return _picture(artifacts.of_dataset(found(dataset_id)["uri"], name), UNCHANGING)


def _add_cluster(app: FastAPI, service: Service) -> None:
    @app.get("/v1/cluster")
    def cluster() -> dict[str, Any]:
        """Nodes, what they have, and what the jobs at work hold of it."""
        note = service.ray_note()
        held = [job.grant for job in service.store.open_jobs() if job.state in ADMITTED]
        return {
            "reachable": note["reachable"],
            "nodes": note["nodes"],
            "cpus": sum(n["cpus"] for n in note["nodes"]),
            "gpus": sum(n["gpus"] for n in note["nodes"]),
            "used_cpus": sum(n.cpus for n in held),
            "used_gpus": sum(n.gpus for n in held),
            "jobs": service.store.counts(),
        }

    @app.get("/healthz")
    def healthz() -> dict[str, str]:
        """The process answers."""
        return {"status": "ok"}

    @app.get("/readyz")
    def readyz() -> Response:
        """The store can be used and Ray can be reached."""
        ready = {"store": service.store.is_usable(), "ray": service.ray_note()["reachable"]}
        return JSONResponse(ready, 200 if all(ready.values()) else 503)

    @app.get("/metrics", response_class=PlainTextResponse)
    def prometheus() -> str:
        """Counters for Prometheus."""
        counts = service.store.counts()
        lines = ["# HELP tench_jobs Jobs by state.", "# TYPE tench_jobs gauge"]
        lines += [f'tench_jobs{{state="{state}"}} {counts.get(state, 0)}' for state in STATES]
        lines += ["# HELP tench_ray_reachable Whether Ray answers.", "# TYPE tench_ray_reachable gauge"]
        lines += [f"tench_ray_reachable {int(service.ray_note()['reachable'])}"]
        return "\n".join(lines) + "\n"

    @app.get("/", include_in_schema=False)
    def page() -> Response:
        return FileResponse(DASHBOARD / "index.html", headers={"Cache-Control": "no-cache"})


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(Problem)
    async def on_problem(request: Request, problem: Problem) -> Response:
        return problem.response()

    @app.exception_handler(HTTPException)
    async def on_http(request: Request, error: HTTPException) -> Response:
        return problem_response(error.status_code, str(error.detail))

    @app.exception_handler(RequestValidationError)
    async def on_misfit(request: Request, error: RequestValidationError) -> Response:
        said = [_misfit(problem) for problem in error.errors()]
        return problem_response(422, "; ".join(words for _, words in said), said)

    @app.exception_handler(TenchError)
    async def on_ours(request: Request, error: TenchError) -> Response:
        return problem_response(422 if error.exit_code in (2, 3) else 500, error.message)


def _view(job: Job, progress: Progress | None, reachable: bool) -> dict[str, Any]:
    """The row, the latest progress, and whether Ray is out of reach while the job runs."""
    values = asdict(job)
    values["progress"] = progress.model_dump() if progress is not None else None
    values["unknown"] = job.state in ADMITTED and not reachable
    values["has_ended"] = job.has_ended and not job.resume_requested
    return values


def _misfit(problem: dict[str, Any]) -> tuple[str, str]:
    """(field, sentence): what does not fit in a body, a query or a header."""
    where, *path = problem["loc"]
    if problem["type"] == "json_invalid":
        return "", f"The body is no JSON: {problem['ctx']['error']} at character {path[0]}."
    if where == "body" and path:
        return problem_words({**problem, "loc": path}, JobRequest, naming=str)
    name = str(path[0]) if path else where
    return name, f"{name} {problem['input']}: {problem['msg']}"


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


async def _counted(service: Service, job_id: str, follower: events.Follower, mark: events.Mark) -> AsyncIterator[bytes]:
    service.streams += 1
    look_at_job = partial(service.followed_view, job_id, follower)
    try:
        async for message in events.stream(look_at_job, follower, mark, service.stopping.is_set):
            yield message
    finally:
        service.streams -= 1


def _mark(text: str | None) -> events.Mark:
    if text is None:
        return (0, 0)
    try:
        return events.parse_mark(text)
    except ValueError:
        raise Problem(422, f"event id {text!r}: expected <move>.<attempt>.<seq> or <attempt>.<seq>") from None


def _capacity(note: dict[str, Any]) -> Capacity | None:
    return Nodes(tuple(note["nodes"])).capacity if note["reachable"] else None


def _picture(data: bytes | None, cache: str) -> Response:
    if data is None:
        raise Problem(404, "There is no such picture (yet).")
    return Response(data, media_type="image/png", headers={"Cache-Control": cache})
