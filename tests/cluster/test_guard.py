"""The door of the service, over real HTTP: pages elsewhere get nothing, bodies are JSON and small, tokens are asked for."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.cluster.served import Answer, Served, environment, serving

READS = ["/v1/jobs", "/v1/kinds", "/v1/datasets", "/v1/cluster", "/metrics", "/openapi.json"]
OPEN = ["/", "/healthz", "/readyz", "/static/index.html", "/static/app.js"]
LARGE = 1_000_001


@dataclass(frozen=True)
class WithTokens:
    """A service on loopback that asks for a token."""

    served: Served
    read: str
    submit: str

    def ask(self, method: str, path: str, token: str | None = None, body: Any = None, scheme: str = "Bearer") -> Answer:
        return self.served.ask(method, path, body, {"Authorization": f"{scheme} {token}"} if token else {})


def tench(home: Path, *arguments: str) -> str:
    """Standard output of a command that has to succeed."""
    command = [sys.executable, "-m", "cluster.cli", *arguments]
    ended = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=True, env=environment(TENCH_HOME=str(home))
    )
    return ended.stdout.strip()


@pytest.fixture(scope="module")
def guarded(no_ray: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WithTokens]:
    home = tmp_path_factory.mktemp("guarded")
    read, submit = tench(home, "token", "add", "eve", "--right", "read"), tench(home, "token", "add", "ada")
    with serving(home, no_ray, "--require-token") as service:
        yield WithTokens(service, read, submit)


def refused(answer: Answer, status: int, *words: str) -> None:
    """The answer is a problem of this status that says these words."""
    assert answer.status == status, answer.body
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == status
    assert all(word in problem["detail"] for word in words), problem


def verification(served: Served, **changes: Any) -> dict[str, Any]:
    return {"kind": "verify", "settings": {"dataset": f"{served.root}/d"}, **changes}


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "10.0.0.1:8400", ""])
@pytest.mark.parametrize("path", ["/", "/v1/jobs", "/static/app.js"])
def test_a_foreign_host_is_turned_away(served: Served, host: str, path: str) -> None:
    refused(served.get(path, {"Host": host}), 400, f"Host {host!r}")


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1", "https://localhost:1"])
def test_a_page_elsewhere_may_not_start_or_stop_anything(served: Served, origin: str) -> None:
    before = len(served.get("/v1/jobs?limit=1000").json()["jobs"])
    refused(served.ask("POST", "/v1/jobs", verification(served), {"Origin": origin}), 403, origin)
    refused(served.ask("POST", "/v1/jobs/any/stop", None, {"Origin": origin}), 403, origin)
    refused(served.ask("DELETE", "/v1/datasets/any", None, {"Origin": origin}), 403, origin)
    assert len(served.get("/v1/jobs?limit=1000").json()["jobs"]) == before


def test_the_services_own_page_and_programs_without_an_origin_may_post(served: Served) -> None:
    own = f"http://{urlsplit(served.url).netloc}"
    assert served.ask("POST", "/v1/jobs", verification(served), {"Origin": own}).status == 201
    assert served.ask("POST", "/v1/jobs", verification(served)).status == 201


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""]
)
def test_a_body_that_is_not_declared_as_json_is_refused(served: Served, kind: str) -> None:
    refused(served.ask("POST", "/v1/jobs", verification(served), {"Content-Type": kind}), 415, "application/json")


def test_json_with_a_charset_is_json(served: Served) -> None:
    headers = {"Content-Type": "application/json; charset=utf-8"}
    assert served.ask("POST", "/v1/jobs", verification(served), headers).status == 201


def test_a_large_body_is_refused_whether_or_not_it_says_its_length(served: Served) -> None:
    body = b'{"kind": "' + b"x" * (LARGE - 12) + b'"}'
    headers = {"Content-Type": "application/json"}
    refused(served.ask("POST", "/v1/jobs", body, headers), 413, "1,000,000 are taken")
    pieces = (body[start : start + 50_000] for start in range(0, len(body), 50_000))
    refused(served.ask("POST", "/v1/jobs", pieces, {**headers, "Transfer-Encoding": "chunked"}), 413, "1,000,000")
    small = iter([b'{"kind": "no', b'such"', b', "settings": {}}'])
    refused(served.ask("POST", "/v1/jobs", small, {**headers, "Transfer-Encoding": "chunked"}), 422, "nosuch")


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", path) for path in (*OPEN, *READS, "/v1/nothing", "/static/../api.py", "/v1/jobs/none")]
    + [("POST", "/v1/jobs"), ("DELETE", "/v1/jobs"), ("OPTIONS", "/v1/jobs"), ("HEAD", "/")],
)
def test_every_answer_carries_the_security_headers_and_none_of_cors(served: Served, method: str, path: str) -> None:
    preflight = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    for headers in ({}, {"Host": "evil.example"}, {"Origin": "http://evil.example", **preflight}):
        answer = served.ask(method, path, None, headers)
        policy = dict(p.strip().split(" ", 1) for p in answer.headers["Content-Security-Policy"].split(";"))
        assert policy["default-src"] == policy["frame-ancestors"] == policy["form-action"] == "'none'"
        assert policy["script-src"] == policy["connect-src"] == "'self'"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert not [name for name in answer.headers if name.lower().startswith("access-control")]
        assert answer.headers["Server"] is None


def test_without_a_token_only_the_page_and_its_files_and_the_probes_are_open(guarded: WithTokens) -> None:
    for path in OPEN:
        assert guarded.ask("GET", path).status == (503 if path == "/readyz" else 200)
    for path in READS:
        answer = guarded.ask("GET", path)
        refused(answer, 401, "Authorization: Bearer")
        assert answer.headers["WWW-Authenticate"] == "Bearer"
    refused(guarded.ask("POST", "/v1/jobs", None, verification(guarded.served)), 401)
    refused(guarded.ask("GET", "/static/../v1/jobs"), 404)


def test_a_token_to_read_reads_and_one_to_submit_does_both(guarded: WithTokens) -> None:
    for token in (guarded.read, guarded.submit):
        assert [guarded.ask("GET", path, token).status for path in READS] == [200] * len(READS)
    body = verification(guarded.served)
    refused(guarded.ask("POST", "/v1/jobs", guarded.read, body), 403, "eve", "right `submit`")
    refused(guarded.ask("POST", "/v1/jobs/any/stop", guarded.read), 403, "eve")
    refused(guarded.ask("DELETE", "/v1/datasets/any", guarded.read), 403, "eve")
    made = guarded.ask("POST", "/v1/jobs", guarded.submit, body)
    assert (made.status, made.json()["asked_by"]) == (201, "ada")
    assert guarded.ask("GET", "/v1/jobs", guarded.read, scheme="bearer").status == 200


def test_a_token_file_that_breaks_is_told_and_lets_nobody_in(guarded: WithTokens) -> None:
    file = guarded.served.home / "tokens.json"
    whole = file.read_text()
    file.write_text(whole[:-5])
    try:
        refused(guarded.ask("GET", "/v1/jobs", guarded.submit), 503, "No token can be checked now", str(file))
    finally:
        file.write_text(whole)
    assert guarded.ask("GET", "/v1/jobs", guarded.submit).status == 200


def test_a_token_counts_in_the_header_only(guarded: WithTokens) -> None:
    for name in ("token", "access_token", "authorization"):
        refused(guarded.ask("GET", f"/v1/jobs?{name}={guarded.submit}"), 401)
    refused(guarded.served.get("/v1/jobs", {"Cookie": f"token={guarded.submit}"}), 401)
    refused(guarded.ask("GET", "/v1/jobs", guarded.submit, scheme="Basic"), 401)
    refused(guarded.ask("GET", "/v1/jobs", guarded.submit[:-1]), 401)


def test_a_revoked_token_stops_working_at_once(guarded: WithTokens) -> None:
    home = guarded.served.home
    token = tench(home, "token", "add", "carol")
    assert guarded.ask("GET", "/v1/jobs", token).status == 200
    tench(home, "token", "revoke", "carol")
    refused(guarded.ask("GET", "/v1/jobs", token), 401)
    assert tench(home, "token", "list").split() == ["eve", "read", "ada", "submit"]


def test_a_key_belongs_to_the_token_it_came_with(guarded: WithTokens) -> None:
    other = tench(guarded.served.home, "token", "add", "dan")
    ids = []
    for token in (guarded.submit, other, guarded.submit):
        headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": "the-same"}
        ids.append(guarded.served.ask("POST", "/v1/jobs", verification(guarded.served), headers).json()["id"])
    assert ids[0] == ids[2] != ids[1]
