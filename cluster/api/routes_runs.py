"""Routes of what a job does: its events as they come, its log, its curves, its pictures."""

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Annotated, Any

from fastapi import FastAPI, Header, Query, Request
from fastapi.responses import PlainTextResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from cluster.api import artifacts, events, logs
from cluster.api.problems import Problem, problems
from cluster.api.service import JobId, Service, png_response
from cluster.api.turns import Turns
from cluster.api.views import EventsView, SeriesView
from cluster.jobs import Job
from cluster.launcher import RayUnreachable

MAX_POINTS = 2000
"""Points of a curve in an answer: ninety epochs of reports stay light."""
TEXT = {"text/plain": {"schema": {"type": "string"}}}
MESSAGE = {
    "type": "object",
    "description": "A message of the stream: `data` is a job, an event or its progress, as JSON.",
    "properties": {
        "id": {"type": "string", "pattern": r"^\d+\.\d+\.\d+$"},
        "event": {"enum": ["job", "event", "progress"]},
        "data": {"type": "string", "contentMediaType": "application/json"},
    },
    "required": ["id", "event", "data"],
}
EVENT_STREAM = {"text/event-stream": {"schema": MESSAGE}}
PNG = {"image/png": {"schema": {"type": "string", "format": "binary"}}}
ATTEMPT = Query(ge=1, description="Number of the attempt; the newest one unless told.")
TAIL = Query(ge=1, le=logs.MAX_LINES, description="So many lines of the end; all that is kept unless told.")
FOLLOW = Query(description="Go on with what is written, until the attempt has ended.")
_asking_ray = Turns("logs are being read", at_once=8, waiting=0)
"""A Ray that hangs keeps each of them for its whole time limit."""
AFTER = Query(description="Mark of an event: answer those after it as JSON, not as a stream.")


class CountedStream(StreamingResponse):
    """A stream that counts as one of its caller's while it is open. Problem 429 or 503 instead of one too many."""

    def __init__(self, service: Service, request: Request, content: AsyncIterator[bytes], media_type: str) -> None:
        super().__init__(content, media_type=media_type, headers={"Cache-Control": "no-store"})
        self._one = service.streams.one(request.scope["state"]["limited_as"])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it to its end, or until the client leaves."""
        with self._one:
            await super().__call__(scope, receive, send)


def add_runs(app: FastAPI, service: Service) -> None:
    """Follow a job."""
    _add_events(app, service)
    _add_logs(app, service)

    @app.get("/v1/jobs/{job_id}/metrics", responses=problems(404))
    def metrics(job_id: JobId) -> SeriesView:
        """Curves of a training over all attempts; of long ones the ends, and the extremes between."""
        service.job(job_id)
        from trainer.figures import series_of, thinned

        series = series_of(service.followers.of(job_id).look().events)
        return SeriesView(series={name: thinned(points, MAX_POINTS) for name, points in series.items()})

    @app.get(
        "/v1/jobs/{job_id}/artifacts/{name}",
        response_class=Response,
        responses={200: {"content": PNG}, **problems(404)},
    )
    def artifact(job_id: JobId, name: str) -> Response:
        """Pictures of a job: kernels.png and curves.png of a training, mean.png and sheet.png of an ingest."""
        return png_response(artifacts.of_job(service.job(job_id), service.runs.inside(job_id), name), "no-cache")


def _add_events(app: FastAPI, service: Service) -> None:
    @app.get(
        "/v1/jobs/{job_id}/events",
        responses={200: {"content": EVENT_STREAM, "model": EventsView}, **problems(404, 422, 429, 503)},
    )
    def follow(
        job_id: JobId,
        request: Request,
        after: Annotated[str | None, AFTER] = None,
        last_event_id: Annotated[str | None, Header()] = None,
    ) -> Response:
        """Server-sent events, resumed after Last-Event-ID; with `?after=<attempt>.<seq>` a JSON list instead."""
        service.job(job_id)
        mark = _mark(after if after is not None else last_event_id)
        if after is None:
            content = events.stream(service.feeds.of(job_id), mark, service.stopping.is_set)
            return CountedStream(service, request, content, "text/event-stream")
        seen = service.followers.of(job_id).look()
        lines = ", ".join(seen.lines[number] for number in seen.after(mark))
        return Response(f'{{"events": [{lines}]}}', media_type="application/json")


def _add_logs(app: FastAPI, service: Service) -> None:
    @app.get(
        "/v1/jobs/{job_id}/logs",
        response_class=PlainTextResponse,
        responses={200: {"content": TEXT}, **problems(404, 422, 429, 503)},
    )
    def read_log(
        job_id: JobId,
        request: Request,
        attempt: Annotated[int | None, ATTEMPT] = None,
        tail: Annotated[int | None, TAIL] = None,
        follow: Annotated[bool, FOLLOW] = False,
    ) -> Response:
        """What the process of an attempt wrote, the last 8 MiB of it. Ray keeps it as long as its head lives."""
        job = service.job(job_id)
        number = attempt or job.attempt
        if not 1 <= number <= job.attempt:
            raise Problem(404, f"The job has started {job.attempt} times; there is no log of attempt {max(number, 1)}.")

        def look() -> logs.Log:
            return service.ray.log(replace(job, attempt=number).submission_id)

        note = service.ray_note()
        if not note["reachable"]:
            raise Problem(503, note.get("error") or "Ray cannot be reached; its logs come back with it.")
        try:
            with _asking_ray:
                log = look()
        except RayUnreachable as error:
            raise Problem(503, error.message) from error
        text = log.text() if tail is None else log.last_lines(tail)
        if not follow:
            return PlainTextResponse(text.encode(errors="replace"), headers={"Cache-Control": "no-store"})
        content = _followed(service, job, number, look, log, text)
        return CountedStream(service, request, content, "text/plain")


async def _followed(
    service: Service, job: Job, attempt: int, look: Any, log: logs.Log, text: str
) -> AsyncIterator[bytes]:
    """The log so far, then what comes."""

    def is_over() -> bool:
        now = service.store.job(job.id)
        return now is None or now.has_ended or now.attempt != attempt

    yield text.encode(errors="replace")
    async for more in logs.follow(look, is_over, service.stopping.is_set, log.end):
        yield more


def _mark(text: str | None) -> events.Mark:
    if text is None:
        return (0, 0)
    try:
        return events.parse_mark(text)
    except ValueError:
        raise Problem(422, f"event id {text!r}: expected <move>.<attempt>.<seq> or <attempt>.<seq>") from None
