"""The door of the service: every request passes it before any route sees it.

A page elsewhere must neither read nor start anything: foreign Host headers are turned away (DNS rebinding), POSTs have
to be JSON of the same origin, no CORS header is ever sent. Then the token, if this service asks for one.
"""

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cluster.access import Tokens, host_allowed
from cluster.problems import Problem

MAX_BODY_BYTES = 1_000_000
OPEN_PATHS = ("/", "/healthz", "/readyz")
OPEN_FOLDERS = ("/static/",)
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class Guard:
    """ASGI middleware. `tokens` is None where none is asked for; `scope["state"]["caller"]` is set for the routes."""

    def __init__(self, app: ASGIApp, served_host: str, tokens: Tokens | None) -> None:
        self._app, self._host, self._tokens = app, served_host, tokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it with a problem."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        guarded_send = _with_headers(send)
        try:
            scope.setdefault("state", {})["caller"] = self._caller(scope)
            limited = _limited(receive, Headers(scope=scope))
            await self._app(scope, limited, guarded_send)
        except Problem as problem:
            await problem.response()(scope, receive, guarded_send)

    def _caller(self, scope: Scope) -> str:
        """Who asks. Raises Problem if this request may not be made."""
        headers, path, reads = Headers(scope=scope), scope["path"], scope["method"] in ("GET", "HEAD")
        if not host_allowed(headers.get("host", ""), self._host, self._tokens is not None):
            raise Problem(400, f"Host {headers.get('host')!r} is not this service; ask for it by its own address.")
        if not reads:
            _refuse_foreign(headers)
        if self._tokens is None or path in OPEN_PATHS or path.startswith(OPEN_FOLDERS):
            return "local"
        scheme, _, token = headers.get("authorization", "").partition(" ")
        found = self._tokens.check(token.strip()) if scheme.lower() == "bearer" else None
        if found is None:
            raise Problem(401, "A token is needed: send `Authorization: Bearer TOKEN`; `tench token add` makes one.")
        name, right = found
        if not reads and right != "submit":
            raise Problem(403, f"Token {name} may read only; starting and stopping jobs needs one with right `submit`.")
        return name


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
