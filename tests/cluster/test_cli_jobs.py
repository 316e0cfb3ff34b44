"""Commands that send, show, follow, copy and end jobs: what they print, in words and as JSON, and what they leave with."""

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.cli.app import run as tench
from ingest.progress import RunWriter
from ingest.storage import Place
from tests.cluster.ray_api import TOKEN, RayApi, ray_api
from tests.cluster.served import Served, serving

Said = Callable[..., tuple[str, str]]


@pytest.fixture
def said(served: Served, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Said:
    """What a command line about that service prints: (output, errors)."""
    monkeypatch.setenv("TENCH_SERVER", served.url)
    monkeypatch.setenv("COLUMNS", "500")

    def run(line: str, code: int = 0) -> tuple[str, str]:
        found = tench(line.format(root=served.root).split())
        printed = capsys.readouterr()
        assert found == code, printed
        return printed.out, printed.err

    return run


def sent(said: Said, flags: str = "") -> str:
    """The id of a new job."""
    return said(f"submit verify --dataset {{root}}/d {flags}")[0].strip()


def test_a_dry_run_starts_nothing(served: Served, served_dataset: Path, said: Said) -> None:
    before = served.get("/v1/jobs?limit=1000").json()["jobs"]
    out, _ = said("submit verify --dataset {root}/tiny --dry-run")
    assert out.startswith("Nothing was started (--dry-run).\n")
    assert "num files" in out
    facts = json.loads(said("submit verify --dataset {root}/tiny --dry-run --json")[0])
    assert facts["splits"] == {"train": 60, "val": 30}
    assert len(served.get("/v1/jobs?limit=1000").json()["jobs"]) == len(before)


def test_a_job_sent_twice_under_one_key_is_one_job(said: Said) -> None:
    first, second = sent(said, "--idempotency-key mine --name n"), sent(said, "--idempotency-key mine --name n")
    assert first == second
    assert sent(said, "--name n") != sent(said, "--name n")
    words = said("submit verify --dataset {root}/other --idempotency-key mine", code=2)[1]
    assert "came with another body" in words


def test_lists_go_on_from_where_they_ended_and_keep_to_a_kind_and_a_state(said: Said) -> None:
    made = [sent(said) for _ in range(4)]
    out, errors = said("jobs list --limit 2 --kind verify --state queued")
    assert [line.split()[0] for line in out.splitlines()] == made[:1:-1]
    assert errors == f"There are more: --cursor {made[2]} goes on from here.\n"
    page = json.loads(said(f"jobs list --limit 1 --cursor {made[2]} --json")[0])
    assert ([job["id"] for job in page["jobs"]], page["next"]) == ([made[1]], made[1])
    assert said("jobs list --kind train")[0] == ""
    assert "--limit 0: expected" in said("jobs list --limit 0", code=2)[1]


def test_a_job_is_shown_as_lines_for_people_and_as_json(said: Said, served: Served) -> None:
    job = sent(said, "--deep --name nightly --priority 3")
    lines = dict(line.split(maxsplit=1) for line in said(f"jobs show {job}")[0].splitlines() if " " in line.strip())
    assert {name: lines[name] for name in ("job", "name", "kind", "state", "priority", "dataset", "deep")} == {
        "job": job, "name": "nightly", "kind": "verify", "state": "queued", "priority": "3",
        "dataset": f"{served.root}/d", "deep": "yes",
    }  # fmt: skip
    assert json.loads(said(f"jobs show {job} --json")[0]) == served.get(f"/v1/jobs/{job}").json()


def test_a_clone_has_the_settings_of_the_first_but_those_that_are_set(said: Said, served: Served) -> None:
    first = said(
        "submit train --dataset {root}/d --seed 3 --switch rule.patience=6 --initial-layers conv1 --initial {root}/r --name n"
    )[0].strip()
    same = served.get(f"/v1/jobs/{said(f'jobs clone {first}')[0].strip()}").json()
    settings = served.get(f"/v1/jobs/{first}").json()["settings"]
    assert (same["settings"], same["name"], same["id"] == first) == (settings, "n", False)
    changes = "--set seed=4 --set dataset={root}/e --set num-workers=0 --set profile=true --set initial-layers= --set initial="
    job = json.loads(said(f"jobs clone {first} {changes} --set switch=rule.patience=7,loader.colour=none --json")[0])
    assert job["settings"] == settings | {
        "seed": 4, "dataset": f"{served.root}/e", "num_workers": 0, "profile": True, "initial_layers": None, "initial": None,
        "switch": ["rule.patience=7", "loader.colour=none"],
    }  # fmt: skip
    assert "--seed x: expected a whole number" in said(f"jobs clone {first} --set seed=x", code=2)[1]
    assert "--sed: there is no such setting" in said(f"jobs clone {first} --set sed=1", code=2)[1]
    assert "expected SETTING=VALUE" in said(f"jobs clone {first} --set seed", code=2)[1]


def test_stop_waits_for_the_end_if_it_is_told_to(said: Said, served: Served) -> None:
    job = sent(said)
    _, errors = said(f"jobs stop {job} --wait")
    assert (errors, served.get(f"/v1/jobs/{job}").json()["state"]) == (f"job {job} stopped\n", "stopped")
    assert "there is nothing to stop" in said(f"jobs stop {job}", code=3)[1]


def test_resume_watches_the_job_to_its_next_end(said: Said, served: Served) -> None:
    job = served.stopped(sent(said))["id"]
    stopping = threading.Timer(1.0, lambda: served.ask("POST", f"/v1/jobs/{job}/stop"))
    stopping.start()
    out, errors = said(f"jobs resume {job} --watch", code=130)
    stopping.join()
    assert (out, "queued" in errors, "Stopped before it started" in errors) == ("", True, True)


@pytest.mark.parametrize("line", ["jobs list", "submit verify --dataset /d", "jobs watch a-job", "datasets list"])
def test_where_no_service_is_that_is_said(said: Said, line: str) -> None:
    words = said(f"{line} --server http://127.0.0.1:1", code=1)[1]
    assert words.startswith("tench: http://127.0.0.1:1: does not answer")
    assert "is `tench serve` running? --server or TENCH_SERVER says where" in words


AtWork = tuple[Served, RayApi, Callable[[str], RunWriter]]


@pytest.fixture(scope="module")
def at_work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AtWork]:
    """A service that starts jobs on a Ray that is played; and the driver of a job."""
    home = tmp_path_factory.mktemp("at-work")
    with ray_api() as api, serving(home, api.url, ray_token=TOKEN) as service:

        def begin(job: str) -> RunWriter:
            api.say(f"tench-{job}-1", "RUNNING")
            return RunWriter.begin(Place(home / "runs" / job), "verify", {}, attempt=1)

        yield service, api, begin


def driven(service: Served, begin: Callable[[str], RunWriter]) -> threading.Thread:
    """A driver that does the next job."""
    known = [job["id"] for job in service.get("/v1/jobs").json()["jobs"]]

    def newest(page: Any) -> Any:
        return next((job["id"] for job in page["jobs"] if job["id"] not in known), None)

    def drive() -> None:
        run = begin(service.eventually("/v1/jobs", newest))
        run.event("warning", "Something is odd.")
        run.progress("training", 30, 120, "steps", force=True, loss=6.5, epoch=1, epochs=2)
        run.flush()
        run.finish("succeeded", 0, num_files=12)

    thread = threading.Thread(target=drive)
    thread.start()
    return thread


def test_a_job_that_is_sent_and_watched_ends_with_its_facts(at_work: AtWork, said: Said) -> None:
    service, _, begin = at_work
    driver = driven(service, begin)
    out, errors = said(f"submit verify --server {service.url} --dataset {service.root}/d --watch")
    driver.join()
    assert out.split() == ["num", "files", "12"]
    job = service.get("/v1/jobs").json()["jobs"][0]["id"]
    lines = errors.splitlines()
    assert lines[0] == f"job {job}"
    assert "! Something is odd." in lines
    assert any("training: 30 / 120 steps" in line and "epoch 1/2  loss 6.500" in line for line in lines)


def test_with_json_every_message_is_a_line(at_work: AtWork, said: Said) -> None:
    service, _, begin = at_work
    driver = driven(service, begin)
    out, _ = said(f"submit verify --server {service.url} --dataset {service.root}/d --watch --json")
    driver.join()
    messages: list[dict[str, Any]] = [json.loads(line) for line in out.splitlines()]
    assert {name for message in messages for name in message} == {"job", "event", "progress"}
    assert [m["event"]["text"] for m in messages if "event" in m][1:] == ["Something is odd."]
    last = [m["job"] for m in messages if "job" in m][-1]
    assert (last["state"], last["result"]) == ("succeeded", {"num_files": 12})


def test_a_log_is_printed_whole_its_end_alone_or_as_it_comes(at_work: AtWork, said: Said) -> None:
    service, api, begin = at_work
    job = said(f"submit verify --server {service.url} --dataset {service.root}/d")[0].strip()
    assert "has started 0 times" in said(f"jobs logs {job} --server {service.url}", code=2)[1]
    api.logs[f"tench-{job}-1"] = "one\ntwo\nthree\n"
    run = begin(job)
    assert said(f"jobs logs {job} --server {service.url}")[0] == "one\ntwo\nthree\n"
    assert said(f"jobs logs {job} --server {service.url} --tail 2 --attempt 1")[0] == "two\nthree\n"

    def end() -> None:
        api.logs[f"tench-{job}-1"] += "four\n"
        run.finish("succeeded", 0)

    ending = threading.Timer(1.5, end)
    ending.start()
    assert said(f"jobs logs {job} --server {service.url} --tail 1 --follow")[0] == "three\nfour\n"
    ending.join()
