"""What follows a job over HTTP: server-sent events that go on where they broke off, and the same as JSON."""

import http.client
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from ingest.progress import RunWriter
from ingest.storage import Place
from tests.cluster.rows import put_job
from tests.cluster.served import Served


@dataclass(frozen=True)
class Message:
    """A server-sent event."""

    id: str
    kind: str
    data: Any

    @property
    def mark(self) -> tuple[int, int]:
        return self.data["attempt"], self.data["seq"]


def messages(answer: http.client.HTTPResponse) -> Iterator[Message]:
    """The stream, read as the standard for server-sent events says; comments are left out."""
    fields: dict[str, str] = {}
    for raw in answer:
        line = raw.decode().rstrip("\r\n")
        if not line:
            if "data" in fields:
                yield Message(fields["id"], fields["event"], json.loads(fields["data"]))
            fields = {}
        elif not line.startswith(":"):
            name, _, value = line.partition(":")
            fields[name] = fields[name] + "\n" + value.removeprefix(" ") if name in fields else value.removeprefix(" ")


@contextmanager
def following(served: Served, job: str, last_id: str | None = None) -> Iterator[Iterator[Message]]:
    """The messages of a job from a new connection, which is cut at the end."""
    connection = served.connect()
    connection.request("GET", f"/v1/jobs/{job}/events", headers={"Last-Event-ID": last_id} if last_id else {})
    answer = connection.getresponse()
    assert answer.status == 200
    assert answer.headers["Content-Type"].split(";")[0] == "text/event-stream"
    assert answer.headers["Cache-Control"] == "no-store"
    try:
        yield messages(answer)
    finally:
        answer.close()
        connection.close()


def take(stream: Iterator[Message], count: int) -> list[Message]:
    """That many messages of kind `event`."""
    found: list[Message] = []
    while len(found) < count:
        message = next(stream)
        if message.kind == "event":
            found.append(message)
    return found


def begin(served: Served, job: str) -> RunWriter:
    return RunWriter.begin(Place(served.home / "runs" / job), "verify", {})


def tell(run: RunWriter, *texts: str) -> None:
    for text in texts:
        run.event("phase", text)
    run.flush()


def test_a_stream_tells_the_job_its_events_and_its_progress_and_ends_with_the_job(served: Served) -> None:
    job = served.submit()["id"]
    run = begin(served, job)
    run.progress("verifying", 3, 12, "files", force=True, bytes=7)
    tell(run, "one\ntwo: ü", "three")
    with following(served, job) as stream:
        first = [next(stream) for _ in range(5)]
        assert [m.kind for m in first] == ["job", "event", "event", "event", "progress"]
        assert (first[0].data["id"], first[0].data["state"]) == (job, "queued")
        assert [m.data["text"] for m in first[2:4]] == ["one\ntwo: ü", "three"]
        assert (first[4].data["done"], first[4].data["total"], first[4].data["figures"]) == (3, 12, {"bytes": 7})
        assert all(m.id == f"0.{m.mark[0]}.{m.mark[1]}" for m in first[1:4])
        served.stopped(job)
        rest = list(stream)
    assert [m.kind for m in rest] == ["job"] * len(rest)
    assert rest[-1].data["state"] == "stopped"
    assert rest[-1].id.startswith("1.1.")


def test_a_stream_that_broke_goes_on_with_each_event_exactly_once(served: Served) -> None:
    job = served.submit()["id"]
    run = begin(served, job)
    tell(run, *[f"text {n}" for n in range(10)])
    seen: list[Message] = []
    for count in (1, 4, 3):
        with following(served, job, seen[-1].id if seen else None) as stream:
            seen += take(stream, count)
    tell(run, "text 10")
    served.eventually(f"/v1/jobs/{job}/events?after=1.11", lambda found: found["events"])
    with following(served, job, seen[-1].id) as stream:
        seen += take(stream, 4)
        tell(run, "text 11")
        seen += take(stream, 1)
    assert [m.data["text"] for m in seen[1:]] == [f"text {n}" for n in range(12)]
    assert len({m.mark for m in seen}) == len(seen) == 13


def test_events_go_on_over_attempts_in_order(served: Served) -> None:
    job = served.submit()["id"]
    tell(begin(served, job), "first attempt")
    with following(served, job) as stream:
        seen = take(stream, 2)
        tell(begin(served, job), "second attempt")
        seen += take(stream, 2)
    assert [m.mark[0] for m in seen] == [1, 1, 2, 2]
    assert [m.data["text"] for m in seen[1::2]] == ["first attempt", "second attempt"]
    with following(served, job, seen[1].id) as stream:
        assert [m.mark for m in take(stream, 2)] == [m.mark for m in seen[2:]]


def test_a_new_connection_learns_the_job_as_it_is_even_if_nothing_happened(served: Served) -> None:
    job = served.submit()["id"]
    run = begin(served, job)
    tell(run, "one")
    with following(served, job) as stream:
        last = take(stream, 2)[-1]
    served.stopped(job)
    with following(served, job, last.id) as stream:
        assert [(m.kind, m.data["state"]) for m in stream] == [("job", "stopped")]


def test_the_same_events_as_json_after_a_mark(served: Served) -> None:
    job = put_job(served.home)
    tell(begin(served, job), "one", "two")
    tell(begin(served, job), "three")

    def after(mark: str) -> list[str]:
        found = served.get(f"/v1/jobs/{job}/events?after={mark}").json()["events"]
        return [e["text"] for e in found if e["kind"] == "phase"]

    assert after("0.0") == ["one", "two", "three"]
    assert after("1.2") == ["two", "three"]
    assert after("7.1.2") == ["two", "three"]
    assert after("1.999") == after("2.0") == ["three"]
    assert after("2.999") == []


@pytest.mark.parametrize("mark", ["x", "1", "1.2.3.4", "-1.0", "1..2"])
def test_a_mark_that_is_none_is_refused_with_its_form(served: Served, mark: str) -> None:
    job = served.submit()["id"]
    for answer in (
        served.get(f"/v1/jobs/{job}/events?after={mark}"),
        served.get(f"/v1/jobs/{job}/events", {"Last-Event-ID": mark}),
    ):
        assert (answer.status, answer.headers["Content-Type"]) == (422, "application/problem+json")
        assert "<attempt>.<seq>" in answer.json()["detail"]


def test_the_latest_progress_is_part_of_the_job(served: Served) -> None:
    job = served.submit()["id"]
    assert served.get(f"/v1/jobs/{job}").json()["progress"] is None
    begin(served, job).progress("verifying", 5, 12, "files", force=True)
    progress = served.eventually(f"/v1/jobs/{job}", lambda found: found["progress"])
    assert (progress["done"], progress["total"], progress["unit"], progress["attempt"]) == (5, 12, "files", 1)


def test_a_file_that_is_still_being_put_is_not_read(served: Served) -> None:
    job = served.submit()["id"]
    run = begin(served, job)
    for path in ("attempts/0002.json", "events/0001/00000002.jsonl"):
        (served.home / "runs" / job / f"{path}#1").write_bytes(b'{"half')
    tell(run, "one")
    events = served.eventually(f"/v1/jobs/{job}/events?after=1.1", lambda found: found["events"])
    assert [e["text"] for e in events] == ["one"]
