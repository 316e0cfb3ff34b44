"""The threat model names a test for each threat, and these are the tests that no other file has."""

import json
import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from ingest.manifest import ShardFile
from tests.cluster.ray_api import TOKEN, RayApi
from tests.cluster.served import Served

TESTS = Path(__file__).parents[1]
MODEL = TESTS.parent / "cluster" / "threats.md"
NAMED = re.compile(r"`((?:\w+/)?test_\w+\.py)::(test_\w+)`")
PLACE = "/data/$(touch x); `id` & \"quoted\" 'too'"


def test_every_threat_names_tests_and_every_test_named_is_there() -> None:
    rows = [line for line in MODEL.read_text().splitlines() if line.startswith("| ") and "---" not in line][1:]
    assert len(rows) > 20
    for row in rows:
        found = NAMED.findall(row)
        assert found, row
        for file, name in found:
            path = TESTS / file if "/" in file else TESTS / "cluster" / file
            assert re.search(rf"^def {name}\(", path.read_text(), re.MULTILINE), f"{file}::{name}"


@pytest.mark.parametrize("path", ["../x", "a/../../x", "/etc/passwd", "a//b", "a\\b", "..", "./x"])
def test_no_manifest_names_a_file_outside_of_its_folder(path: str) -> None:
    told = {"sha256": "0" * 64, "size": 1, "num_samples": 1, "content_sha256": "0" * 64}
    assert ShardFile(path="train/00000.arrow", **told).path == "train/00000.arrow"
    with pytest.raises(ValidationError, match="leads out of the dataset"):
        ShardFile(path=path, **told)


def test_nothing_of_a_request_reaches_the_command_line(with_ray: Served, api: RayApi) -> None:
    job = with_ray.submit(name=PLACE, settings={"dataset": f"{with_ray.root}{PLACE}"})["id"]
    api.wait_for(f"tench-{job}-1")
    told = api.jobs[f"tench-{job}-1"]
    assert told["entrypoint"] == "exec python -m cluster.entry"
    assert set(told) - {"status"} == {
        "entrypoint", "submission_id", "runtime_env", "entrypoint_num_cpus", "entrypoint_num_gpus",
    }  # fmt: skip
    given = told["runtime_env"]["env_vars"]
    assert given == {
        "TENCH_RUN": f"{with_ray.home}/runs/{job}", "TENCH_ATTEMPT": "1", "TENCH_CPUS": "1", "TENCH_GPUS": "0",
        "TENCH_STAY_ON_HOST": "1", "TENCH_ROOTS": json.dumps([str(with_ray.root)]), "RAY_JOB_STOP_WAIT_TIME_S": "60",
    }  # fmt: skip
    request = json.loads((with_ray.home / "runs" / job / "request.json").read_text())
    assert request["settings"]["dataset"] == f"{with_ray.root}{PLACE}"


def test_no_answer_holds_the_clusters_token(with_ray: Served, api: RayApi) -> None:
    job = with_ray.submit()["id"]
    api.wait_for(f"tench-{job}-1")
    paths = json.loads(with_ray.get("/openapi.json").body)["paths"]
    asked = [path.replace("{job_id}", job) for path, methods in paths.items() if "get" in methods]
    for path in [path for path in asked if not path.endswith("/events")] + [f"/v1/jobs/{job}/events?after=0.0"]:
        assert TOKEN.encode() not in with_ray.get(path).body, path
    assert TOKEN not in json.dumps(api.jobs)
    kept = [file for file in with_ray.home.rglob("*") if file.is_file()]
    assert kept
    assert [file for file in kept if TOKEN.encode() in file.read_bytes()] == []


@pytest.mark.parametrize("text", ["a\nb", "a\rb", "\x1b[2J", "a\x00b"])
def test_control_characters_in_names_and_places_are_refused(with_ray: Served, text: str) -> None:
    settings = {"dataset": f"{with_ray.root}/d"}
    place = {"dataset": f"{with_ray.root}/{text}"}
    for body in ({"name": text, "settings": settings}, {"settings": place}, {"settings": settings | {"source": text}}):
        assert with_ray.ask("POST", "/v1/jobs", {"kind": "verify", **body}).status == 422
    initial = {"kind": "train", "settings": settings | {"initial": f"{with_ray.root}/{text}"}}
    assert with_ray.ask("POST", "/v1/jobs", initial).status == 422


def test_half_a_surrogate_pair_is_refused_and_the_list_of_jobs_goes_on(with_ray: Served) -> None:
    half, place = "q\\udc80", f"{with_ray.root}/d"
    for body in (
        f'{{"dataset": "{place}{half}"}}', f'{{"dataset": "{place}", "source": "{place}{half}"}}',
        f'{{"dataset": "{place}", "{half}": 1}}',
    ):  # fmt: skip
        raw = f'{{"kind": "verify", "settings": {body}}}'.encode()
        answer = with_ray.ask("POST", "/v1/jobs", raw, {"Content-Type": "application/json"})
        assert (answer.status, "half of a surrogate pair" in answer.json()["detail"]) == (422, True), answer.body
    named = f'{{"kind": "verify", "name": "{half}", "settings": {{"dataset": "{place}"}}}}'.encode()
    assert with_ray.ask("POST", "/v1/jobs", named, {"Content-Type": "application/json"}).status == 422
    assert with_ray.get("/v1/jobs").status == 200


def test_a_client_that_sends_or_reads_nothing_does_not_keep_others_waiting(with_ray: Served) -> None:
    job = with_ray.submit()["id"]
    idle = [with_ray.connect() for _ in range(60)]
    try:
        for number, connection in enumerate(idle):
            connection.connect()
            if number % 2:  # half a request, never ended
                connection.sock.sendall(b"POST /v1/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9")
            else:  # a stream that is never read
                connection.request("GET", f"/v1/jobs/{job}/events")
        for _ in range(20):
            assert with_ray.get(f"/v1/jobs/{job}").status == 200
    finally:
        for connection in idle:
            connection.close()
