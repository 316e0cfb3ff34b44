"""Errors over HTTP: RFC 9457 problem details, with the field at fault."""

import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

MEDIA_TYPE = "application/problem+json"


class FieldProblem(BaseModel):
    """What is wrong with one field of a request."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    field: str
    """Its name; empty if the body as a whole is at fault."""

    detail: str
    """A sentence: what was found, what was expected."""


class ProblemView(BaseModel):
    """Why a request was not granted (RFC 9457)."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    type: str
    """Always about:blank: the status says what kind of problem it is."""

    title: str
    """The words of the status."""

    status: int
    """The status of the answer."""

    detail: str
    """What was found, what was expected, what to do."""

    errors: list[FieldProblem] = []
    """The fields at fault, where there are any."""


class Problem(HTTPException):
    """What a request is answered with when it is not granted.

    `errors` names fields: (field, sentence) each. While FastAPI reads a body, it lets HTTPExceptions through, and makes
    a plain 400 of everything else.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        errors: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, detail, headers)
        self.errors = errors

    def response(self) -> JSONResponse:
        """The answer."""
        return problem_response(self.status_code, self.detail, self.errors, self.headers)


class _ProblemResponse(JSONResponse):
    """Words of other programs may hold what is no text (names of files): such characters travel escaped."""

    media_type = MEDIA_TYPE

    def render(self, content: Any) -> bytes:
        """The body."""
        return json.dumps(content).encode()


def problem_response(
    status: int, detail: str, errors: Sequence[tuple[str, str]] = (), headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """`{"type", "title", "status", "detail", "errors": [{"field", "detail"}]}`."""
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
    }
    if errors:
        body["errors"] = [{"field": field, "detail": words} for field, words in errors]
    told = {"WWW-Authenticate": "Bearer"} if status == HTTPStatus.UNAUTHORIZED else {}
    return _ProblemResponse(body, status, {**told, **(headers or {})})


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The problems that a route may answer with, for its description."""
    return {status: {"model": ProblemView, "description": HTTPStatus(status).phrase} for status in statuses}
