"""A real `tench serve` as a process of its own, and plain HTTP requests to it, without any of our code."""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

START_S, END_S, WAIT_S = 60, 60, 30


@dataclass(frozen=True)
class Answer:
    """An answer: status, headers, body."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    def errors(self) -> dict[str, str]:
        """The fields at fault, with what is said of each."""
        return {error["field"]: error["detail"] for error in self.json().get("errors", [])}


@dataclass
class Served:
    """A service at work."""

    url: str
    home: Path
    root: Path
    process: "subprocess.Popen[bytes]"

    def connect(self) -> http.client.HTTPConnection:
        address = urlsplit(self.url)
        return http.client.HTTPConnection(str(address.hostname), address.port, timeout=WAIT_S)

    def ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
        """One request. A body that is neither bytes nor an iterator is sent as JSON; a Host header replaces our own."""
        sent = dict(headers or {})
        if body is not None and not isinstance(body, bytes | Iterator):
            body = json.dumps(body).encode()
            sent = {"Content-Type": "application/json", **sent}
        connection = self.connect()
        try:
            # A service may answer, and hang up, before it has taken a body that is too large.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.request(method, path, body, sent, encode_chunked=isinstance(body, Iterator))
            answer = connection.getresponse()
            return Answer(answer.status, answer.headers, answer.read())
        finally:
            connection.close()

    def get(self, path: str, headers: dict[str, str] | None = None) -> Answer:
        return self.ask("GET", path, None, headers)

    def eventually(self, path: str, found: Callable[[Any], Any]) -> Any:
        """What `found` makes of the JSON at a path, as soon as it makes something of it."""
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            answer = self.get(path)
            assert answer.status == 200, answer.body
            if value := found(answer.json()):
                return value
            time.sleep(0.05)
        pytest.fail(f"{path} after {WAIT_S} s: {answer.body!r}")

    def submit(self, kind: str = "verify", status: int = 201, **body: Any) -> Any:
        """POST /v1/jobs, answered with a job; `settings` are a verification's unless told."""
        answer = self.ask("POST", "/v1/jobs", {"kind": kind, "settings": {"dataset": f"{self.root}/d"}, **body})
        assert answer.status == status, answer.body
        return answer.json()

    def job_once(self, job_id: str, state: str) -> Any:
        """The job as soon as it is in a state."""
        return self.eventually(f"/v1/jobs/{job_id}", lambda job: job if job["state"] == state else None)

    def stopped(self, job_id: str) -> Any:
        """The job, stopped on request."""
        assert self.ask("POST", f"/v1/jobs/{job_id}/stop").status == 200
        return self.job_once(job_id, "stopped")


@contextmanager
def closed_port() -> Iterator[int]:
    """A port of loopback on which nobody answers, and which nobody else can take meanwhile."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@contextmanager
def serving(home: Path, ray: str, *flags: str, ray_token: str = "", store: str = "", port: int = 0) -> Iterator[Served]:
    """`tench serve` on a free port (or the one that is told) with a Ray (and a store, if one is told) that is elsewhere;
    ended by SIGTERM, unless it has ended before."""
    root = home / "data"
    root.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable, "-m", "cluster.cli", "serve", "--port", str(port), "--home", str(home), "--root", str(root),
        "--ray-address", ray, *flags,
    ]  # fmt: skip
    log = home / "serve.out"
    note = home / "service.json"
    note.unlink(missing_ok=True)
    with log.open("ab") as out:
        variables = environment(RAY_AUTH_TOKEN=ray_token, TENCH_STORE=store)
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=variables)
    try:
        deadline = time.monotonic() + START_S
        while not note.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        if not note.exists():
            pytest.fail(f"serve did not start (exit {process.poll()}):\n{log.read_text()[-3000:]}")
        yield Served(_url(note), home, root, process)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            pytest.fail(f"serve did not end within {END_S} s of SIGTERM:\n{log.read_text()[-3000:]}")


def environment(**changes: str) -> dict[str, str]:
    """This process's environment without what would lead a service or its client elsewhere, and this very checkout."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("TENCH_", "RAY_"))}
    return kept | {"PYTHONPATH": str(Path(__file__).parents[2])} | changes


def _url(note: Path) -> str:
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        with contextlib.suppress(ValueError):
            return str(json.loads(note.read_text())["url"])
    pytest.fail(f"{note}: {note.read_text()!r}")
