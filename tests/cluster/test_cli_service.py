"""The command line and the service: what `serve` refuses, and jobs sent, listed, watched, stopped from a terminal."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.served import Served, environment, serving

HOW_IT_IS_SENT = {"--idempotency-key", "--dry-run", "--watch", "--server", "--json"}


def tench(*arguments: str, cwd: Path | None = None, **changes: str) -> "subprocess.CompletedProcess[str]":
    """A command line as a process of its own."""
    changes = {"COLUMNS": "500", **changes}
    return subprocess.run(
        [sys.executable, "-m", "cluster.cli", *arguments], capture_output=True, text=True, timeout=60, check=False,
        env=environment(**changes), cwd=cwd,
    )  # fmt: skip


def refused(ended: "subprocess.CompletedProcess[str]", *words: str) -> None:
    assert ended.returncode == 3, ended.stderr
    assert all(word in ended.stderr for word in words), ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("flags", [("--host", "0.0.0.0"), ("--host", "::"), ("--require-token",)])
def test_a_door_that_needs_a_token_stays_shut_without_one(flags: tuple[str, ...], tmp_path: Path, no_ray: str) -> None:
    ended = tench("serve", *flags, "--port", "0", "--home", str(tmp_path / "home"), "--ray-address", no_ray)
    refused(ended, " ".join(flags[:2]).replace("--require-", ""), "holds none", "tench token add NAME", "127.0.0.1")
    assert not (tmp_path / "home" / "store.sqlite").exists()


def test_a_port_that_is_taken_is_refused(served: Served, tmp_path: Path, no_ray: str) -> None:
    port = served.url.rsplit(":", 1)[1]
    ended = tench("serve", "--port", port, "--home", str(tmp_path), "--ray-address", no_ray)
    refused(ended, f"--port {port}: cannot listen there", "another --port, or 0")


def test_an_address_that_is_not_this_machines_is_refused(tmp_path: Path, no_ray: str) -> None:
    home = str(tmp_path)
    assert tench("token", "add", "ada", TENCH_HOME=home).returncode == 0
    refused(tench("serve", "--host", "192.0.2.1", "--home", home, "--ray-address", no_ray), "--host 192.0.2.1")


def test_a_second_service_on_one_home_is_refused_and_the_first_goes_on(served: Served, no_ray: str) -> None:
    ended = tench("serve", "--port", "0", "--home", str(served.home), "--ray-address", no_ray)
    refused(ended, str(served.home), "another `tench serve`", "--home")
    assert served.get("/healthz").status == 200
    assert json.loads((served.home / "service.json").read_text()) == {"url": served.url, "pid": served.process.pid}


def test_a_service_answers_as_soon_as_it_says_where_it_is_and_ends_in_order(tmp_path: Path, no_ray: str) -> None:
    with serving(tmp_path, no_ray) as service:
        job = service.submit()["id"]
        connection = service.connect()
        connection.request("GET", f"/v1/jobs/{job}/events")
        stream = connection.getresponse()
        assert stream.readline() == b"event: job\n"
        service.process.send_signal(signal.SIGTERM)
        # A stream that is cut instead of ended raises IncompleteRead here.
        assert stream.read().endswith(b"\n\n")
        assert service.process.wait(30) == 0
        connection.close()
    assert not (tmp_path / "service.json").exists()
    assert "Traceback" not in (tmp_path / "serve.out").read_text()


def test_every_setting_is_a_flag_a_field_and_a_form_by_one_name_with_one_text(served: Served) -> None:
    body = served.get("/openapi.json").json()["components"]["schemas"]["JobRequest"]["properties"]
    for kind, schema in served.get("/v1/kinds").json().items():
        shown = tench("submit", kind, "--help").stdout
        settings = schema["properties"] | {name: body[name] for name in ("after", "priority", "name", "max_attempts")}
        assert set(re.findall(r"--[a-z][a-z0-9-]*", shown)) - HOW_IT_IS_SENT == {
            f"--{n.replace('_', '-')}" for n in settings
        }
        for name, setting in settings.items():
            assert " ".join(setting["description"].split()) in shown, (kind, name)
        if kind == "ingest":
            direct = set(re.findall(r"--[a-z][a-z0-9-]*", tench(kind, "--help").stdout))
            assert direct == {f"--{n.replace('_', '-')}" for n in schema["properties"]} | {"--dry-run", "--json"}


def test_a_job_is_sent_shown_stopped_and_resumed_from_a_terminal(served: Served) -> None:
    server: dict[str, Any] = {"TENCH_SERVER": served.url}
    sent = tench("submit", "verify", "--dataset", "d", "--deep", "--priority", "-5", cwd=served.root, **server)
    job = sent.stdout.strip()
    assert f"`tench jobs watch {job}`" in sent.stderr
    shown = json.loads(tench("jobs", "show", job, "--json", **server).stdout)
    assert (shown["settings"], shown["priority"]) == ({"dataset": f"{served.root}/d", "deep": True, "source": None}, -5)
    listed = tench("jobs", "list", **server).stdout
    assert re.search(rf"^{job}  queued +verify", listed, re.MULTILINE)
    assert tench("jobs", "stop", job, **server).returncode == 0
    served.job_once(job, "stopped")
    watched = tench("jobs", "watch", job, **server)
    assert (watched.returncode, watched.stdout) == (130, "")
    assert "Stopped before it started" in watched.stderr
    assert tench("jobs", "resume", job, **server).returncode == 0
    served.job_once(job, "queued")


def test_with_json_a_sent_job_and_a_list_are_one_object_each(served: Served) -> None:
    server: dict[str, Any] = {"TENCH_SERVER": served.url}
    sent = json.loads(tench("submit", "verify", "--dataset", f"{served.root}/d", "--json", **server).stdout)
    listed = json.loads(tench("jobs", "list", "--state", "queued", "--json", **server).stdout)
    assert sent["id"] in [job["id"] for job in listed["jobs"]]
    assert isinstance(json.loads(tench("datasets", "list", "--json", **server).stdout)["datasets"], list)


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("submit verify --dataset /etc", 3, "lies outside of the service's roots"),
        (
            "submit verify --dataset {root}/d --priority 1000",
            2,
            "priority 1000: expected a whole number from -100 to 100",
        ),
        ("submit verify --dataset {root}/d --after no-such-job", 2, "no-such-job: there is no job of this id"),
        ("jobs stop no-such-job", 2, "There is no job 'no-such-job'"),
        ("jobs logs no-such-job", 2, "There is no job 'no-such-job'"),
        ("jobs watch no-such-job", 2, "There is no job 'no-such-job'"),
    ],
)
def test_what_the_service_refuses_is_told_in_its_words(served: Served, line: str, code: int, said: str) -> None:
    ended = tench(*line.format(root=served.root).split(), TENCH_SERVER=served.url)
    assert (ended.returncode, said in ended.stderr) == (code, True), ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_client_sends_its_token_and_is_told_where_one_comes_from(tmp_path: Path, no_ray: str) -> None:
    token = tench("token", "add", "ada", TENCH_HOME=str(tmp_path)).stdout
    (tmp_path / "mine").write_text(token)
    with serving(tmp_path, no_ray, "--require-token") as service:
        ended = tench("jobs", "list", TENCH_SERVER=service.url)
        refused(ended, "A token is needed", "TENCH_TOKEN_FILE")
        allowed = tench("jobs", "list", TENCH_SERVER=service.url, TENCH_TOKEN_FILE=str(tmp_path / "mine"))
        assert (allowed.returncode, allowed.stdout) == (0, "")
        missing = tench("jobs", "list", TENCH_SERVER=service.url, TENCH_TOKEN_FILE=str(tmp_path / "none"))
        refused(missing, "TENCH_TOKEN_FILE", str(tmp_path / "none"), "tench token add")
