"""The log of a job: its end, however long it is and however it arrives, and what comes while one looks."""

import itertools
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.api.logs import LEFT_OUT, end_of
from ingest.progress import RunWriter
from ingest.storage import Place
from tests.cluster.ray_api import RayApi
from tests.cluster.rows import put_job
from tests.cluster.served import Served

texts = st.text(st.sampled_from('a\\n\n"ü€😀\t ,}{'), max_size=120)


def body(log: str, ascii_only: bool = True) -> bytes:
    return json.dumps({"logs": log}, ensure_ascii=ascii_only).encode()


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))


@given(texts, st.integers(1, 7), st.booleans())
def test_a_log_that_fits_is_told_as_it_is(text: str, size: int, ascii_only: bool) -> None:
    assert end_of(pieces(body(text, ascii_only), size)).text() == text


@given(texts, st.integers(1, 7), st.integers(64, 90))
def test_of_a_long_log_the_end_is_told_from_a_line_on(text: str, size: int, most: int) -> None:
    log = end_of(pieces(body(text), size), most)
    told = log.text()
    if told != text:
        assert told.startswith(LEFT_OUT)
        assert text.endswith(told.removeprefix(LEFT_OUT))
    assert len(log.raw) <= most


@given(texts, texts, st.integers(1, 7))
def test_what_came_after_a_position_is_told_exactly(before: str, after: str, size: int) -> None:
    position = end_of(pieces(body(before), size)).end
    assert end_of(pieces(body(before + after), size)).text(position) == after


@given(st.lists(st.text("ab ", max_size=3), min_size=1, max_size=20), st.integers(1, 8))
def test_the_last_lines_are_the_last_lines(lines: list[str], count: int) -> None:
    text = "".join(f"{line}\n" for line in lines)
    assert end_of([body(text)]).last_lines(count) == "".join(f"{line}\n" for line in lines[-count:])


@pytest.mark.parametrize("answer", [b"", b"{}", b'{"logs": null}', b'{"logs": "cut', b"x" * 1000])
def test_an_answer_without_a_log_is_an_empty_one(answer: bytes) -> None:
    assert end_of(pieces(answer, 3)).text() == ""


def test_each_attempt_has_its_log_and_its_last_lines_are_told(with_ray: Served, api: RayApi) -> None:
    job = put_job(with_ray.home, state="succeeded", attempt=2)
    api.logs |= {f"tench-{job}-1": "first\n", f"tench-{job}-2": "one\ntwo: ü\nthree\n"}
    for attempt in (1, 2):
        api.jobs[f"tench-{job}-{attempt}"] = {"status": "FAILED"}
    path = f"/v1/jobs/{job}/logs"
    assert with_ray.get(path).body.decode() == "one\ntwo: ü\nthree\n"
    assert with_ray.get(f"{path}?tail=2").body.decode() == "two: ü\nthree\n"
    assert with_ray.get(f"{path}?attempt=1&tail=5").body == b"first\n"
    assert with_ray.get(f"{path}?attempt=3").status == 404
    assert {with_ray.get(f"{path}?{query}").status for query in ("tail=0", "tail=1000000", "attempt=0")} == {422}


def test_a_followed_log_tells_what_comes_and_ends_with_the_job(with_ray: Served, api: RayApi) -> None:
    job = with_ray.submit()["id"]
    name = f"tench-{job}-1"
    api.wait_for(name)
    run = RunWriter.begin(Place(with_ray.home / "runs" / job), "verify", {}, attempt=1)
    api.logs[name] = "left out\nsaid before\n"
    api.say(name, "RUNNING")
    with_ray.job_once(job, "running")
    connection = with_ray.connect()
    connection.request("GET", f"/v1/jobs/{job}/logs?follow=true&tail=1")
    answer = connection.getresponse()
    assert (answer.status, answer.headers["Content-Type"]) == (200, "text/plain; charset=utf-8")
    assert answer.readline() == b"said before\n"
    api.logs[name] += "said now\n"
    assert answer.readline() == b"said now\n"
    api.broken = True
    api.logs[name] += "said while Ray was away\n"
    api.broken = False
    assert answer.readline() == b"said while Ray was away\n"
    run.finish("succeeded", 0)
    api.logs[name] += "last words\n"
    assert answer.read() == b"last words\n"
    connection.close()
    assert with_ray.get(f"/v1/jobs/{job}").json()["state"] == "succeeded"


def test_a_ray_that_hangs_over_logs_leaves_threads_for_everybody_else(with_ray: Served, api: RayApi) -> None:
    job = put_job(with_ray.home, state="succeeded", attempt=1)
    api.jobs[f"tench-{job}-1"] = {"status": "FAILED"}
    go_on = threading.Event()

    def hang() -> None:
        go_on.wait(60)

    api.before_log = hang
    path = f"/v1/jobs/{job}/logs"
    with ThreadPoolExecutor(48) as pool:
        asked = [pool.submit(with_ray.get, path) for _ in range(48)]
        turned_away = [answer.result().status for answer in itertools.islice(as_completed(asked, 60), 40)]
        assert set(turned_away) == {503}
        assert with_ray.get(f"/v1/jobs/{job}").status == 200
        go_on.set()
        assert sorted(answer.result(60).status for answer in asked) == [200] * 8 + [503] * 40
    api.before_log = lambda: None
    assert with_ray.get(path).status == 200


def test_while_ray_is_out_of_reach_a_log_is_not_waited_for(with_ray: Served, api: RayApi) -> None:
    job = put_job(with_ray.home, state="succeeded", attempt=1)
    api.jobs[f"tench-{job}-1"] = {"status": "FAILED"}
    asked: list[int] = []
    api.broken = True
    while with_ray.get("/v1/cluster").json()["reachable"]:
        time.sleep(0.1)
    api.before_log = lambda: asked.append(1)
    answer = with_ray.get(f"/v1/jobs/{job}/logs")
    api.broken, api.before_log = False, lambda: None
    assert (answer.status, "HTTP 500" in answer.json()["detail"], asked) == (503, True, [])
    while not with_ray.get("/v1/cluster").json()["reachable"]:
        time.sleep(0.1)


def test_control_characters_of_a_log_do_not_pass_for_another_kind_of_content(with_ray: Served, api: RayApi) -> None:
    job = put_job(with_ray.home, state="succeeded", attempt=1)
    api.jobs[f"tench-{job}-1"] = {"status": "FAILED"}
    api.logs[f"tench-{job}-1"] = "<script>alert(1)</script>\r\n\r\nHTTP/1.1 200 OK\x1b[2J"
    answer = with_ray.get(f"/v1/jobs/{job}/logs")
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.body.decode() == api.logs[f"tench-{job}-1"]
