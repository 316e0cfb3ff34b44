"""The application: its routes, which are thin, its page, and how errors are told."""

from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, Response
from fastapi.staticfiles import StaticFiles
from obstore.exceptions import BaseError
from sqlalchemy.exc import DatabaseError
from starlette.exceptions import HTTPException

from cluster.access import Tokens
from cluster.api.counters import Counters
from cluster.api.described import describe_api
from cluster.api.guard import Guard, Limits
from cluster.api.problems import Problem, problem_response
from cluster.api.routes_cluster import add_cluster
from cluster.api.routes_datasets import add_datasets
from cluster.api.routes_jobs import add_jobs, add_wishes
from cluster.api.routes_removal import add_removal
from cluster.api.routes_runs import add_runs
from cluster.api.service import Service
from cluster.settings import JobRequest
from cluster.words import problem_words
from ingest.errors import TenchError
from ingest.words import first_line

DASHBOARD = Path(__file__).parents[1] / "dashboard"


def guarded_app(service: Service, served_host: str, tokens: Tokens | None, limits: Limits) -> Guard:
    """The application behind the guard at its door, which counts what passes."""
    counters = Counters(service)
    return Guard(make_app(service, counters), served_host, tokens, counters.requests, limits)


def make_app(service: Service, counters: Counters) -> FastAPI:
    """The application, without the guard at its door (`guard.Guard`)."""
    app = FastAPI(
        title="Tench", version="1", docs_url=None, redoc_url=None,
        description="ImageNet to a trained AlexNet: jobs, their progress, datasets, the cluster.",
    )  # fmt: skip
    app.state.service = service
    _add_errors(app)
    for add in (add_jobs, add_wishes, add_runs, add_datasets, add_removal):
        add(app, service)
    add_cluster(app, service, counters)
    describe_api(app)
    _add_page(app)
    return app


def _add_page(app: FastAPI) -> None:
    @app.get("/", include_in_schema=False)
    def page() -> Response:
        return FileResponse(DASHBOARD / "index.html", headers={"Cache-Control": "no-cache"})

    app.mount("/static", StaticFiles(directory=DASHBOARD), "static")


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(Problem)
    async def on_problem(request: Request, problem: Problem) -> Response:
        return problem.response()

    @app.exception_handler(HTTPException)
    async def on_http(request: Request, error: HTTPException) -> Response:
        return problem_response(error.status_code, str(error.detail), headers=error.headers)

    @app.exception_handler(RequestValidationError)
    async def on_misfit(request: Request, error: RequestValidationError) -> Response:
        said = [_misfit(problem) for problem in error.errors()]
        return problem_response(422, "; ".join(words for _, words in said), said)

    @app.exception_handler(TenchError)
    async def on_ours(request: Request, error: TenchError) -> Response:
        return problem_response(422 if error.exit_code in (2, 3) else 500, error.message)

    @app.exception_handler(DatabaseError)
    async def on_store(request: Request, error: DatabaseError) -> Response:
        words = "The store of jobs does not answer; nothing was changed. Ask again."
        return problem_response(503, words, headers={"Retry-After": "2"})

    @app.exception_handler(BaseError)
    @app.exception_handler(OSError)
    async def on_place(request: Request, error: Exception) -> Response:
        return problem_response(503, f"A place of data does not let itself be read: {first_line(error)}")

    @app.exception_handler(Exception)
    async def on_ours_alone(request: Request, error: Exception) -> Response:
        return problem_response(500, f"The service made a mistake ({type(error).__name__}); its log says more.")


def _misfit(problem: dict[str, Any]) -> tuple[str, str]:
    """(field, sentence): what does not fit in a body, a query or a header."""
    where, *path = problem["loc"]
    if problem["type"] == "json_invalid":
        return "", f"The body is no JSON: {problem['ctx']['error']} at character {path[0]}."
    if where == "body" and path:
        return problem_words({**problem, "loc": path}, JobRequest, naming=str)
    name = str(path[0]) if path else where
    return name, f"{name} {problem['input']}: {problem['msg']}"
