"""The Python client against real services: a job is asked for once, and followed over the service's own end."""

import json
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from cluster.client import Away, Client
from ingest.errors import TenchError
from ingest.progress import RunWriter
from ingest.storage import Place
from tests.cluster.ray_api import TOKEN, ray_api
from tests.cluster.rows import put_job
from tests.cluster.served import Served, environment, serving

WAIT_S = 60
EXAMPLE = """
from cluster.client import Client

client = Client("http://127.0.0.1:8400")
job = client.submit("verify", {"dataset": "/data/imagenet-jpeg"})
for event in client.events(job["id"]):
    print(event.kind, event.text)
print(client.wait(job["id"])["result"])
"""


@contextmanager
def breaking(url: str, breaks: int) -> Iterator[tuple[str, list[bytes]]]:
    """A door to a service that takes its first requests, passes them on, and hangs up instead of answering; its address,
    and the requests that it passed on."""
    requests: list[bytes] = []
    address = urlsplit(url)
    door = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                asking, _ = door.accept()
            except OSError:
                return
            with asking, socket.create_connection((str(address.hostname), int(address.port or 0))) as service:
                request = _whole_request(asking)
                requests.append(request)
                service.sendall(re.sub(rb"(?i)connection: keep-alive", b"Connection: close", request))
                answer = b"".join(iter(lambda: service.recv(65536), b""))
                if len(requests) > breaks:
                    asking.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"http://127.0.0.1:{door.getsockname()[1]}", requests
    finally:
        door.shutdown(socket.SHUT_RDWR)
        door.close()
        thread.join()


def _whole_request(asking: socket.socket) -> bytes:
    request = b""
    while b"\r\n\r\n" not in request:
        request += asking.recv(65536)
    head, _, body = request.partition(b"\r\n\r\n")
    length = next((int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if b"content-length:" in line), 0)
    while len(body) < length:
        body += asking.recv(65536)
    return head + b"\r\n\r\n" + body


def test_a_job_whose_answers_were_lost_is_asked_for_again_and_starts_once(served: Served) -> None:
    with breaking(served.url, 2) as (url, requests):
        client = Client(url)
        job = client.submit("verify", {"dataset": f"{served.root}/d"}, name="asked for again", priority=-7)
        client.close()
    assert len(requests) == 3
    named = [j for j in served.get("/v1/jobs?limit=1000").json()["jobs"] if j["name"] == "asked for again"]
    assert [j["id"] for j in named] == [job["id"]]
    assert job["priority"] == -7


def test_each_call_is_a_job_of_its_own_unless_it_has_the_same_key(served: Served) -> None:
    client = Client(served.url)
    asked = [client.submit("verify", {"dataset": f"{served.root}/d"}, key=key)["id"] for key in (None, None, "k", "k")]
    client.close()
    assert len(set(asked)) == 3
    assert asked[2] == asked[3]


def test_where_nothing_answers_it_says_so_at_once() -> None:
    client = Client("http://127.0.0.1:1")
    for ask in (lambda: client.submit("verify", {"dataset": "/d"}), lambda: list(client.events("a-job"))):
        with pytest.raises(Away, match=r"http://127\.0\.0\.1:1: does not answer .* is `tench serve` running\?"):
            ask()


def test_pages_add_up_to_all_jobs(served: Served) -> None:
    client = Client(served.url)
    made = [client.submit("verify", {"dataset": f"{served.root}/d"})["id"] for _ in range(5)]
    page, cursor = client.jobs_page(limit=2)
    rest = client.jobs(limit=3, cursor=cursor)
    assert [job["id"] for job in [*page, *rest]] == made[::-1]
    client.close()


@pytest.mark.slow
def test_a_service_that_is_killed_and_comes_back_is_followed_on_without_loss_or_repeat(
    tmp_path: Path, no_ray: str
) -> None:
    job = put_job(tmp_path, state="running", attempt=1, job_id="followed")
    run = RunWriter.begin(Place(tmp_path / "runs" / job), "verify", {}, attempt=1)
    heard: list[tuple[int, str]] = []
    moments = {text: threading.Event() for text in ("before", "after")}

    def follow(url: str) -> None:
        client = Client(url)
        for event in client.events(job):
            heard.append((event.seq, event.text))
            if event.text in moments:
                moments[event.text].set()
        client.close()

    with serving(tmp_path, no_ray) as service:
        port = int(service.url.rsplit(":", 1)[1])
        following = threading.Thread(target=follow, args=(service.url,), daemon=True)
        following.start()
        watching = subprocess.Popen(
            [sys.executable, "-m", "cluster.cli", "jobs", "watch", job, "--json", "--server", service.url],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(),
        )  # fmt: skip
        run.event("warning", "before")
        run.flush()
        assert moments["before"].wait(WAIT_S)
        assert watching.stdout is not None
        lines: list[str] = []
        while not lines or "before" not in lines[-1]:
            lines.append(watching.stdout.readline())
        service.process.kill()
        service.process.wait()
    run.event("warning", "meanwhile")
    run.flush()
    with serving(tmp_path, no_ray, port=port):
        run.event("warning", "after")
        run.flush()
        assert moments["after"].wait(WAIT_S)
        run.finish("failed", 4, "damage was found")
        following.join(WAIT_S)
        out, errors = watching.communicate(timeout=WAIT_S)
    assert [text for _, text in heard][1:] == ["before", "meanwhile", "after"]
    assert [seq for seq, _ in heard] == sorted({seq for seq, _ in heard})
    messages = [json.loads(line) for line in [*lines, *out.splitlines()]]
    assert [m["event"]["text"] for m in messages if "event" in m][1:] == ["before", "meanwhile", "after"]
    assert [m["job"]["state"] for m in messages if "job" in m][-1] == "failed"
    assert messages[-1] == {"error": "job followed failed: damage was found", "exit_code": 4}
    assert (watching.returncode, "damage was found" in errors) == (4, True)
    assert "does not answer" in errors


@pytest.mark.parametrize("ends_at_once", [False, True])
def test_a_followed_log_goes_from_one_attempt_to_the_next_and_ends_with_the_job(
    ends_at_once: bool, tmp_path: Path
) -> None:
    with ray_api() as api, serving(tmp_path, api.url, ray_token=TOKEN) as service:
        client = Client(service.url)
        job = client.submit("verify", {"dataset": f"{service.root}/d"})["id"]
        first, second = f"tench-{job}-1", f"tench-{job}-2"
        api.say(first, "RUNNING")
        api.logs |= {first: "left out\none\n", second: "two\n"}
        service.job_once(job, "running")
        pieces = client.follow_logs(job, tail=1)
        assert next(pieces) == "one\n"
        api.say(first, "FAILED")  # without a result: the job is begun again
        api.say(second, "RUNNING")
        if ends_at_once:
            RunWriter.begin(Place(tmp_path / "runs" / job), "verify", {}, attempt=2).finish("succeeded", 0)
            service.job_once(job, "succeeded")
        assert next(piece for piece in pieces if piece) == "two\n"
        if not ends_at_once:
            RunWriter.begin(Place(tmp_path / "runs" / job), "verify", {}, attempt=2).finish("succeeded", 0)
        assert "".join(pieces) == ""
        assert "".join(client.follow_logs(job, attempt=1)) == "left out\none\n"
        client.close()


@pytest.mark.parametrize("signal_name", ["SIGTERM", "SIGKILL"])
def test_a_followed_log_whose_service_goes_away_is_no_end_of_the_job(tmp_path: Path, signal_name: str) -> None:
    with ray_api() as api, serving(tmp_path, api.url, ray_token=TOKEN) as service:
        client = Client(service.url)
        job = client.submit("verify", {"dataset": f"{service.root}/d"})["id"]
        api.say(f"tench-{job}-1", "RUNNING")
        api.logs[f"tench-{job}-1"] = "one\n"
        service.job_once(job, "running")
        pieces = client.follow_logs(job)
        assert next(pieces) == "one\n"
        service.process.send_signal(signal.Signals[signal_name])
        with pytest.raises(Away, match="does not answer"):
            list(pieces)
        client.close()


def test_the_example_of_the_readme_prints_events_and_the_result(tmp_path: Path) -> None:
    with ray_api() as api, serving(tmp_path, api.url, ray_token=TOKEN) as service:
        text = EXAMPLE.replace("http://127.0.0.1:8400", service.url).replace("/data/imagenet-jpeg", f"{service.root}/d")
        shown = subprocess.Popen(
            [sys.executable, "-c", text], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
        )
        job = service.eventually("/v1/jobs", lambda page: page["jobs"] and page["jobs"][0]["id"])
        api.wait_for(f"tench-{job}-1")
        run = RunWriter.begin(Place(tmp_path / "runs" / job), "verify", {}, attempt=1)
        run.event("phase", "Half of it is looked at.")
        run.finish("succeeded", 0, ok=True)
        out, errors = shown.communicate(timeout=WAIT_S)
    assert out.splitlines()[1:] == ["phase Half of it is looked at.", "{'ok': True}"], errors


def test_a_job_that_failed_is_an_error_with_its_words_and_its_exit_code(served: Served) -> None:
    client = Client(served.url)
    job = client.submit("verify", {"dataset": f"{served.root}/d"})["id"]
    client.stop(job)
    with pytest.raises(TenchError, match=f"job {job} stopped: Stopped before it started") as raised:
        client.wait(job)
    assert raised.value.exit_code == 130
    client.close()
