"""A small HTTP server that speaks Ray's job interface, so that a test decides what Ray says. It runs nothing."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "token-of-the-cluster"
GIB = 2**30
WAIT_S = 30


@dataclass
class RayApi:
    """What Ray knows, and what it was told to do."""

    url: str = ""
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    submits: list[str] = field(default_factory=list)
    """Ids that it was asked to take, also those that it did not take."""
    stops: list[str] = field(default_factory=list)
    nodes: list[dict[str, Any]] = field(default_factory=list)
    logs: dict[str, str] = field(default_factory=dict)
    broken: bool = False
    """Answers every call with a failure of its own."""
    demands_token: bool = True
    before_submit: Callable[[], None] = lambda: None
    """Runs as soon as it is asked to take a job; an exception cuts the connection instead of an answer."""
    before_log: Callable[[], None] = lambda: None
    """Runs before it tells a log."""

    def say(self, submission_id: str, status: str) -> None:
        """From now on Ray says this of a job, which may be on its way."""
        self.wait_for(submission_id)
        self.jobs[submission_id]["status"] = status

    def wait_for(self, submission_id: str) -> None:
        """Until a job was taken."""
        deadline = time.monotonic() + WAIT_S
        while submission_id not in self.jobs:
            assert time.monotonic() < deadline, f"{submission_id} was not submitted within {WAIT_S} s"
            time.sleep(0.02)

    def answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        """Status and JSON body of one call."""
        if self.broken:
            return 500, {"detail": "the head is in trouble"}
        parts = path.split("?")[0].strip("/").split("/")
        if parts == ["nodes"]:
            return 200, {"data": {"summary": self.nodes}}
        if parts == ["api", "jobs"]:
            return self._submit(body) if method == "POST" else (200, list(self.jobs.values()))
        if parts[:2] != ["api", "jobs"] or parts[2] not in self.jobs:
            return 404, {"detail": f"no job {path}"}
        if parts[3:] == ["logs"]:
            self.before_log()
            return 200, {"logs": self.logs.get(parts[2], "")}
        if parts[3:] == ["stop"]:
            self.stops.append(parts[2])
        return 200, self.jobs[parts[2]]

    def _submit(self, body: Any) -> tuple[int, Any]:
        name = body["submission_id"]
        self.submits.append(name)
        self.before_submit()
        if name in self.jobs:
            return 400, {"detail": f"Job with submission_id {name} already exists."}
        self.jobs[name] = {**body, "status": "PENDING"}
        return 200, {"submission_id": name}


def node(name: str, cpus: int, gpus: int = 0, state: str = "ALIVE") -> dict[str, Any]:
    """A node as Ray's summary tells it."""
    resources = {"CPU": float(cpus), "memory": 64.0 * GIB, **({"GPU": float(gpus)} if gpus else {})}
    raylet = {"state": state, "nodeId": name * 4, "isHeadNode": name == "head", "resourcesTotal": resources}
    return {"hostname": name, "ip": "10.0.0.1", "raylet": raylet}


@contextmanager
def ray_api(*nodes: dict[str, Any]) -> Iterator[RayApi]:
    """The server at work on a free port of loopback."""
    api = RayApi(nodes=list(nodes) or [node("head", 8)])

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # A body that follows its headers would wait 40 ms for their acknowledgement.

        def _handle(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            body = json.loads(self.rfile.read(length)) if length else None
            if api.demands_token and self.headers.get("Authorization") != f"Bearer {TOKEN}":
                status, found = 401, {"detail": "no token"}
            else:
                status, found = api.answer(self.command, self.path, body)
            data = json.dumps(found).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = _handle

        def log_message(self, *arguments: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *arguments: Any) -> None:
            pass  # The other side is gone: that is what some tests are about.

    server = Server(("127.0.0.1", 0), Handler)
    api.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield api
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
