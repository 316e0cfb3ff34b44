"""The fixed command of every job, as a process: what it refuses, and the result that it leaves in the run folder."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.served import environment


@contextmanager
def entering(run: Path | str, attempt: str = "1") -> Iterator["subprocess.Popen[str]"]:
    """The command at work on a run folder; gone at the end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "cluster.entry"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=environment(TENCH_RUN=str(run), TENCH_ATTEMPT=attempt),
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def enter(run: Path | str, attempt: str = "1") -> tuple[int, str]:
    """Exit code and output of the command."""
    with entering(run, attempt) as process:
        said, _ = process.communicate(timeout=120)
        return process.returncode, said


def asked(run: Path, kind: str = "verify", **changes: Any) -> Path:
    """A run folder with what was asked for; everything under its grandparent is inside the roots."""
    record = {"format_version": 1, "kind": kind, "settings": {}, "roots": [str(run.parents[1])], "job": run.name}
    run.mkdir(parents=True)
    (run / "request.json").write_text(json.dumps(record | changes))
    return run


def result(run: Path, attempt: int = 1) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / f"result/{attempt:04d}.json").read_text())
    return found


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder that is to be made."""
    return tmp_path / "runs" / "20261124-093015-verify-4f1a2b"


@pytest.mark.parametrize("name", ["Run", "a_b", "a" * 65, "..", "a b", "a;id", "run.1"])
def test_a_run_id_with_anything_but_small_letters_digits_and_dashes_is_refused(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "runs" / name
    folder.mkdir(parents=True, exist_ok=True)
    code, said = enter(folder)
    assert (code, "is no run id" in said) == (3, True), said
    assert list(folder.rglob("attempts")) == []


def test_a_run_without_a_request_or_with_a_strange_attempt_is_refused(run: Path) -> None:
    run.mkdir(parents=True)
    assert enter(run)[0] == 3
    (run / "request.json").write_text("{half")
    assert enter(run)[0] == 3
    (run / "request.json").unlink()
    assert enter(asked(run.with_name("other")), "one")[0] == 3
    assert [p.name for p in run.parent.rglob("*") if p.is_file()] == ["request.json"]


def test_a_request_of_a_newer_tench_is_refused(run: Path) -> None:
    code, said = enter(asked(run, format_version=99))
    assert (code, "newer Tench" in said) == (3, True), said


def test_an_attempt_that_is_taken_is_left_to_the_driver_that_has_it(run: Path) -> None:
    asked(run)
    (run / "attempts").mkdir()
    (run / "attempts/0001.json").write_text('{"pid": 1}')
    code, said = enter(run)
    assert (code, "another driver started attempt 1" in said) == (3, True), said
    assert (run / "attempts/0001.json").read_text() == '{"pid": 1}'
    assert not (run / "result").exists()


@pytest.mark.parametrize("place", ["/etc", "{inside}/../../elsewhere", "{inside}/link", "https://elsewhere/data"])
def test_a_place_outside_of_the_recorded_roots_is_refused_on_the_node_again(run: Path, place: str) -> None:
    inside = run.parents[1] / "data"
    inside.mkdir()
    (inside / "link").symlink_to("/etc")
    asked(run, settings={"dataset": place.format(inside=inside)}, roots=[str(inside)])
    assert enter(run)[0] == 3
    told = result(run)
    assert (told["state"], told["exit_code"], told["attempt"]) == ("failed", 3, 1)
    assert told["error"].startswith("dataset: ")


def test_a_web_source_is_held_to_the_recorded_servers_on_the_node_again(run: Path) -> None:
    inside = run.parents[1]
    settings = {"dataset": f"{inside}/d", "source": "https://elsewhere.example/a"}
    asked(run, "repair", settings=settings, web_hosts=["data.example"])
    assert enter(run)[0] == 3
    assert "its server is not one of those allowed (data.example)" in result(run)["error"]


def test_an_attempt_is_held_to_what_was_allowed_when_it_started(run: Path) -> None:
    inside = run.parents[1]
    asked(run, settings={"dataset": f"{inside}/d"})
    (run / "allowed").mkdir()
    (run / "allowed/0002.json").write_text(json.dumps({"roots": ["/elsewhere"], "web_hosts": []}))
    assert enter(run, "2")[0] == 3
    assert "lies outside of the service's roots (/elsewhere)" in result(run, 2)["error"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"kind": "nosuch"}, "kind 'nosuch'; expected one of ingest, verify, repair, recentre, train, evaluate"),
        ({"settings": {"dataset": "/d", "gone": 1}}, "gone: there is no such setting"),
        ({"settings": {}}, "dataset: is missing"),
        ({"settings": {"dataset": "/d"}, "roots": []}, "lies outside"),
    ],
)
def test_a_request_that_does_not_fit_fails_once_with_its_reason(run: Path, changes: dict[str, Any], said: str) -> None:
    code, _ = enter(asked(run, **changes))
    assert code == 3
    assert (result(run)["state"], said in result(run)["error"]) == ("failed", True), result(run)


def test_a_job_that_is_done_leaves_its_facts_as_its_result(run: Path, tiny_dataset: str) -> None:
    asked(run, settings={"dataset": tiny_dataset}, roots=[str(Path(tiny_dataset).parent)])
    assert enter(run, "2")[0] == 0
    told = result(run, 2)
    assert (told["state"], told["exit_code"], told["error"]) == ("succeeded", 0, None)
    assert told["facts"]["ok"] is True
    assert [p.name for p in sorted((run / "attempts").iterdir())] == ["0002.json"]
    begun = json.loads((run / "attempts/0002.json").read_text())
    assert begun["settings"] == {"dataset": tiny_dataset}
    assert begun["versions"] == {"tench": version("tench")}
    lines = [json.loads(line) for f in sorted((run / "events/0002").iterdir()) for line in f.read_text().splitlines()]
    assert lines[0]["kind"] == "started"
    assert {e["attempt"] for e in lines} == {2}


def test_an_evaluation_looks_for_its_training_beside_its_own_folder(run: Path, tiny_dataset: str) -> None:
    settings = {"dataset": tiny_dataset, "run": "the-training"}
    asked(run, "evaluate", settings=settings, roots=[str(Path(tiny_dataset).parent)])
    assert enter(run)[0] == 3
    assert result(run)["error"].startswith(f"{run.parent}/the-training: holds no checkpoint")


def test_sigterm_stops_a_job_at_its_next_safe_point_with_a_last_word(run: Path, tiny_dataset: str) -> None:
    dataset = Path(shutil.copytree(tiny_dataset, run.parents[1] / "dataset"))
    with (dataset / "plan.json").open("r+b") as file:
        file.truncate(3 * 2**30)  # holes, but reading and hashing them keeps the process at work for seconds
    asked(run, settings={"dataset": str(dataset)})
    with entering(run) as process:
        assert process.stdout is not None
        while not list(run.glob("progress/*.json")):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        said = process.stdout.readline() + process.stdout.readline()
        assert "Stopping at the next safe point" in said
        assert process.wait(60) == 130
    assert (result(run)["state"], result(run)["exit_code"]) == ("stopped", 130)
    assert "Stopped" in result(run)["error"]
