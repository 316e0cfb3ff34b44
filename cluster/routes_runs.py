"""Routes of what a job does: its events as they come, its log, its curves, its pictures."""

from collections.abc import AsyncIterator
from functools import partial
from typing import Annotated, Any

from fastapi import FastAPI, Header
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

from cluster import artifacts, events
from cluster.launcher import RayUnreachable
from cluster.problems import Problem
from cluster.service import JobId, Service, png_response

MAX_STREAMS = 500


def add_runs(app: FastAPI, service: Service) -> None:
    """Follow a job."""

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
        return png_response(artifacts.of_job(service.job(job_id), service.runs.inside(job_id), name), "no-cache")


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
