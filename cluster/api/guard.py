"""The door of the service: every request passes it before any route sees it.

A page elsewhere must neither read nor start anything: foreign Host headers are turned away (DNS rebinding), POSTs have
to be JSON of the same origin, no CORS header is ever sent. Then the token, if this service asks for one, and the rate at
which its owner (or, without tokens, an address) may ask.
"""

import math
import time
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cluster.access import Tokens, host_allowed
from cluster.api.counters import Requests
from cluster.api.problems import Problem
from cluster.api.rates import Rate, Rates
from ingest.errors import TenchError

MAX_BODY_BYTES = 1_000_000
OPEN_PATHS = ("/", "/healthz", "/readyz")
OPEN_FOLDERS = ("/static/",)
LOCAL = "local"
"""The caller where no token is asked for."""
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


@dataclass(frozen=True)
class Limits:
    """How often one caller may ask."""

    posts: Rate
    reads: Rate


class Guard:
    """ASGI middleware. `tokens` is None where none is asked for; `caller` and `limited_as` are in the scope's state."""

    def __init__(
        self, app: ASGIApp, served_host: str, tokens: Tokens | None, requests: Requests, limits: Limits
    ) -> None:
        self._app, self._host, self._tokens, self._requests = app, served_host, tokens, requests
        self._posts, self._reads = Rates(limits.posts), Rates(limits.reads)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it with a problem."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        guarded_send = self._requests.timed(scope, _with_headers(send))
        try:
            scope.setdefault("state", {}).update(self._admitted(scope))
            limited = _limited(receive, Headers(scope=scope))
            await self._app(scope, limited, guarded_send)
        except Problem as problem:
            await problem.response()(scope, receive, guarded_send)

    def _admitted(self, scope: Scope) -> dict[str, str]:
        """`caller`: who asks, as it is written down; `limited_as`: whose limits it counts against. Raises Problem."""
        address = scope["client"][0] if scope.get("client") else LOCAL
        try:
            caller = self._caller(scope)
        except Problem:
            self._refuse_haste(scope, address)
            raise
        limited_as = address if caller == LOCAL else caller
        self._refuse_haste(scope, limited_as)
        return {"caller": caller, "limited_as": limited_as}

    def _refuse_haste(self, scope: Scope, caller: str) -> None:
        """Raise Problem 429 for a caller who asks too often. Probes and the page's own files are not counted."""
        if _is_open(scope["path"]):
            return
        rates, what = (self._reads, "reads") if _reads(scope) else (self._posts, "posts")
        if wait := rates.wait_s(caller, time.monotonic()):
            headers = {"Retry-After": str(math.ceil(wait))}
            raise Problem(429, f"{caller} asks too often ({what}); ask again in {wait:.2f} s.", headers=headers)

    def _caller(self, scope: Scope) -> str:
        """Who asks. Raises Problem if this request may not be made."""
        headers, reads = Headers(scope=scope), _reads(scope)
        if not host_allowed(headers.get("host", ""), self._host, self._tokens is not None):
            raise Problem(400, f"Host {headers.get('host')!r} is not this service; ask for it by its own address.")
        if not reads:
            _refuse_foreign(headers)
        if self._tokens is None or _is_open(scope["path"]):
            return LOCAL
        scheme, _, token = headers.get("authorization", "").partition(" ")
        try:
            found = self._tokens.check(token.strip()) if scheme.lower() == "bearer" else None
        except (TenchError, OSError) as error:
            raise Problem(503, f"No token can be checked now: {error}", headers={"Retry-After": "10"}) from error
        if found is None:
            raise Problem(401, "A token is needed: send `Authorization: Bearer TOKEN`; `tench token add` makes one.")
        name, right = found
        if not reads and right != "submit":
            raise Problem(403, f"Token {name} may read only; starting and stopping jobs needs one with right `submit`.")
        return name


def _reads(scope: Scope) -> bool:
    return scope["method"] in ("GET", "HEAD")


def _is_open(path: str) -> bool:
    return path in OPEN_PATHS or path.startswith(OPEN_FOLDERS)


def _refuse_foreign(headers: Headers) -> None:
    origin = headers.get("origin")
    if origin is not None and origin not in (f"http://{headers.get('host')}", f"https://{headers.get('host')}"):
        raise Problem(403, f"Origin {origin} is not this service: pages elsewhere may not ask anything of it.")
    has_body = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
    if has_body and headers.get("content-type", "").split(";")[0].strip() != "application/json":
        raise Problem(415, "A request's body has to be JSON: send Content-Type: application/json.")


def _limited(receive: Receive, headers: Headers) -> Receive:
    """Bodies up to a limit, however they are sent."""
    length = headers.get("content-length", "0")
    if not length.isdigit() or int(length) > MAX_BODY_BYTES:
        raise Problem(413, f"The body has {length} bytes; at most {MAX_BODY_BYTES:,} are taken.")
    taken = 0

    async def limited() -> Message:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        if taken > MAX_BODY_BYTES:
            raise Problem(413, f"The body has more than {MAX_BODY_BYTES:,} bytes.")
        return message

    return limited


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return sending
