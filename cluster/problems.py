"""Errors over HTTP: RFC 9457 problem details, with the field at fault."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

MEDIA_TYPE = "application/problem+json"


class Problem(HTTPException):
    """What a request is answered with when it is not granted.

    `errors` names fields: (field, sentence) each. While FastAPI reads a body, it lets HTTPExceptions through, and makes
    a plain 400 of everything else.
    """

    def __init__(self, status: int, detail: str, errors: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(status, detail)
        self.errors = errors

    def response(self) -> JSONResponse:
        """The answer."""
        return problem_response(self.status_code, self.detail, self.errors)


def problem_response(status: int, detail: str, errors: Sequence[tuple[str, str]] = ()) -> JSONResponse:
    """`{"type", "title", "status", "detail", "errors": [{"field", "detail"}]}`."""
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
    }
    if errors:
        body["errors"] = [{"field": field, "detail": words} for field, words in errors]
    headers = {"WWW-Authenticate": "Bearer"} if status == HTTPStatus.UNAUTHORIZED else None
    return JSONResponse(body, status, headers, media_type=MEDIA_TYPE)
