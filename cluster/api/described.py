"""The OpenAPI description: what the routes say of themselves, and what the door before them may answer (`guard`)."""

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from cluster.api.guard import OPEN_PATHS
from cluster.api.problems import MEDIA_TYPE, ProblemView

ALWAYS = (400,)
UNLESS_OPEN = (401, 429, 503)
UNLESS_READ = (403, 413, 415)
PROBLEM = {MEDIA_TYPE: {"schema": {"$ref": f"#/components/schemas/{ProblemView.__name__}"}}}
RETRY_AFTER = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 1}}}


def describe_api(app: FastAPI) -> None:
    """Let the application serve its description, made once."""

    def described() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _described(app)
        return app.openapi_schema

    app.openapi = described  # type: ignore[method-assign]


def _described(app: FastAPI) -> dict[str, Any]:
    found = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    found["components"].setdefault("securitySchemes", {})["token"] = {"type": "http", "scheme": "bearer"}
    for path, operations in found["paths"].items():
        for method, operation in operations.items():
            if path not in OPEN_PATHS:
                operation["security"] = [{}, {"token": []}]
            _add_problems(operation["responses"], _door(path, method))
    return found


def _door(path: str, method: str) -> tuple[int, ...]:
    """What the door answers in place of this operation."""
    return (*ALWAYS, *(() if path in OPEN_PATHS else UNLESS_OPEN), *(() if method == "get" else UNLESS_READ))


def _add_problems(responses: dict[str, Any], door: tuple[int, ...]) -> None:
    """Every problem has the one form, and its own type of content."""
    for number in door:
        responses.setdefault(str(number), {"description": HTTPStatus(number).phrase})
    for status, response in responses.items():
        if status.startswith(("4", "5")) and not _has_own_form(response):
            response["content"] = PROBLEM
        if status in ("429", "503"):
            response.setdefault("headers", RETRY_AFTER)


def _has_own_form(response: dict[str, Any]) -> bool:
    """Whether a route describes the body itself, and not as a problem or as FastAPI's own kind of error."""
    schemas = [kind.get("schema", {}).get("$ref", "") for kind in response.get("content", {}).values()]
    return any(not ref.endswith(("/ProblemView", "/HTTPValidationError")) for ref in schemas)
