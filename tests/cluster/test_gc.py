"""`tench gc` on real run folders: what it says, what it removes, what it leaves to be shown, and a kill in the middle."""

import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.cli.app import run as tench
from ingest.progress import RunWriter
from ingest.storage import Place
from tests.cluster.rows import new_job, put_job
from tests.cluster.served import environment, serving
from trainer import checkpoint

DAY = 86_400.0
Gc = Callable[..., dict[str, Any]]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty HOME of Tench, and of the user."""
    monkeypatch.setenv("TENCH_HOME", str(tmp_path / "tench"))
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "tench" / "runs").mkdir(parents=True)
    return tmp_path / "tench"


@pytest.fixture
def gc(home: Path, capsys: pytest.CaptureFixture[str]) -> Gc:
    """Run the command; what it prints with --json. Folders of Ray are this machine's, not this test's: left out."""

    def run(*flags: str) -> dict[str, Any]:
        assert tench(["gc", "--json", *flags]) == 0
        facts: dict[str, Any] = json.loads(capsys.readouterr().out)
        facts["went"] = {
            str(Path(r["path"]).relative_to(home / "runs")): r["reason"]
            for r in facts["removals"]
            if r["path"].startswith(str(home))
        }
        return facts

    return run


def ended_run(home: Path, name: str, days: float, kind: str = "train", checkpoints: int = 0, **settings: Any) -> Path:
    """A run of the command line that ended so many days ago."""
    place = Place(home / "runs" / name)
    writer = RunWriter.begin(place, kind, {"settings": settings})
    for step in range(1, checkpoints + 1):
        checkpoint.save(place, 1, {"step": step}, {}, {})
    writer.progress("training", 3, 3, "steps", force=True)
    writer.finish("succeeded", 0, ok=True)
    result = home / "runs" / name / "result" / "0001.json"
    result.write_text(json.dumps(json.loads(result.read_text()) | {"at": time.time() - days * DAY}))
    return home / "runs" / name


def files_of(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


def test_without_yes_it_says_by_reason_what_would_go_and_touches_nothing(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ended_run(home, "old", 200)
    ended_run(home, "thinned", 40, checkpoints=3)
    before = files_of(home)
    assert tench(["gc"]) == 0
    said = capsys.readouterr().out
    assert "1  " in said.split("run folders, ended long ago")[0].splitlines()[-1]
    assert "2  " in said.split("checkpoints beyond the newest")[0].splitlines()[-1]
    assert "Nothing was removed: with --yes 3 things would be." in said
    assert files_of(home) == before


def test_each_part_goes_at_its_age_and_what_is_left_is_what_was_asked_and_how_it_ended(home: Path, gc: Gc) -> None:
    young = ended_run(home, "young", 1, checkpoints=3)
    thinned = ended_run(home, "thinned", 40, checkpoints=3)
    bare = ended_run(home, "bare", 100, checkpoints=2)
    old = ended_run(home, "old", 200, checkpoints=2)
    kept = files_of(young)
    size = sum(path.stat().st_size for path in old.rglob("*") if path.is_file())
    facts = gc("--yes")
    assert facts["went"] == {
        "thinned/checkpoints/step-00000001.0001": "older checkpoint",
        "thinned/checkpoints/step-00000002.0001": "older checkpoint",
        "bare/checkpoints/step-00000001.0001": "older checkpoint",
        "bare/events": "old record",
        "old": "old run",
    }
    assert facts["reasons"]["old run"] == {"number": 1, "bytes": size}
    assert files_of(young) == kept
    assert sorted(p.name for p in (thinned / "checkpoints").iterdir()) == ["step-00000003.0001"]
    newest = {f"checkpoints/step-00000002.0001/{name}" for name in ("weights.pt", "state.json", "hashes.json")}
    assert files_of(bare) == {"request.json", "attempts/0001.json", "progress/0001.json", "result/0001.json"} | newest
    assert sorted(p.name for p in (home / "runs").iterdir()) == ["bare", "thinned", "young"]
    assert gc("--yes")["went"] == {}


def test_a_run_that_others_name_stays(home: Path, gc: Gc) -> None:
    for name in ("evaluated", "begun-with", "beside", "averaged", "parent", "forgotten"):
        ended_run(home, name, 900)
    put_job(home, kind="evaluate", settings={"dataset": "/d", "run": "evaluated"})
    put_job(home, kind="train", settings={"dataset": "/d", "initial": "run:beside"}, state="running")
    put_job(home, after="parent")
    ended_run(home, "tuned", 3, initial=str(home / "runs" / "begun-with"))
    ended_run(home, "measured", 3, kind="evaluate", runs=[str(home / "runs" / "averaged")])
    gc("--yes")
    assert not (home / "runs" / "forgotten").exists()
    assert all((home / "runs" / name).exists() for name in ("evaluated", "begun-with", "beside", "averaged", "parent"))
    assert all((home / "runs" / name / "events").exists() for name in ("evaluated", "beside", "parent"))


@pytest.mark.parametrize(
    ("host", "pid", "goes"), [("here", "dead", True), ("here", "alive", False), ("away", "dead", False)]
)
def test_a_run_without_an_end_is_over_only_if_its_process_is_known_to_be_gone(
    home: Path, gc: Gc, host: str, pid: str, goes: bool
) -> None:
    folder = ended_run(home, "cut", 0)
    (folder / "result" / "0001.json").unlink()
    ended = subprocess.Popen(["true"])
    ended.wait()
    attempt = folder / "attempts" / "0001.json"
    facts = json.loads(attempt.read_text()) | {
        "host": socket.gethostname() if host == "here" else "elsewhere",
        "pid": ended.pid if pid == "dead" else os.getpid(), "started_at": time.time(),
    }  # fmt: skip
    attempt.write_text(json.dumps(facts))
    for path in folder.rglob("*"):
        os.utime(path, (time.time() - 200 * DAY,) * 2)
    assert gc()["went"] == ({"cut": "old run"} if goes else {})


def test_a_jobs_state_is_the_stores_and_a_folder_of_no_job_is_an_orphan_only_where_the_store_is_known(
    home: Path, gc: Gc
) -> None:
    for name in ("resumed", "stopped", "lost"):
        folder = ended_run(home, name, 900)
        request = folder / "request.json"
        request.write_text(json.dumps(json.loads(request.read_text()) | {"job": name}))
    assert gc()["went"] == dict.fromkeys(("resumed", "stopped", "lost"), "old run")
    long_ago = time.time() - 900 * DAY
    put_job(home, job_id="resumed", state="stopped", resume_requested=True, ended_at=long_ago)
    put_job(home, job_id="stopped", state="stopped", ended_at=long_ago)
    assert gc()["went"] == {"stopped": "old run", "lost": "run of no job"}


def test_older_checkpoints_stay_while_the_newest_is_damaged(home: Path, gc: Gc) -> None:
    folder = ended_run(home, "damaged", 40, checkpoints=3) / "checkpoints"
    (folder / "step-00000003.0001" / "state.json").write_text("{}")
    assert gc()["went"] == {
        "damaged/checkpoints/step-00000001.0001": "older checkpoint",
        "damaged/checkpoints/step-00000003.0001": "older checkpoint",
    }
    (folder / "step-00000002.0001" / "weights.pt").write_bytes(b"")
    (folder / "step-00000001.0001" / "weights.pt").write_bytes(b"")
    assert gc()["went"] == {}


def test_no_link_is_followed(home: Path, gc: Gc, tmp_path: Path) -> None:
    elsewhere = ended_run(tmp_path / "other", "linked", 900)
    (home / "runs" / "linked").symlink_to(elsewhere)
    old = ended_run(home, "old", 900)
    (old / "events" / "out").symlink_to(elsewhere)
    before = files_of(elsewhere)
    assert gc("--yes")["went"] == {"old": "old run"}
    assert files_of(elsewhere) == before
    assert (home / "runs" / "linked").is_symlink()


def test_what_is_no_run_is_left_alone(home: Path, gc: Gc) -> None:
    for path in ("notes/plan.txt", "My Folder/request.json", "plain.txt"):
        (home / "runs" / path).parent.mkdir(exist_ok=True)
        (home / "runs" / path).write_text("mine")
    before = files_of(home)
    assert gc("--yes", "--runs-after", "0d", "--leftovers-after", "0d")["went"] == {}
    assert files_of(home) == before


def test_files_that_nobody_finished_and_fetches_that_nobody_makes_go(home: Path, gc: Gc) -> None:
    folder = ended_run(home, "run", 2)
    staged = home.parent / ".cache" / "tench" / "staged"
    staged.mkdir(parents=True)
    for path in (folder / "result" / "0001.json#7", staged / "dead", staged / "fetched", staged / "new"):
        path.write_bytes(b"half")
        if path.name != "new":
            os.utime(path, (time.time() - 2 * DAY,) * 2)
    with open(staged / "fetched", "rb") as fetching:
        fcntl.flock(fetching, fcntl.LOCK_EX)
        facts = gc("--yes")
    assert facts["went"] == {"run/result/0001.json#7": "staged file"}
    assert facts["reasons"]["cache file"] == {"number": 1, "bytes": 4}
    assert sorted(p.name for p in staged.iterdir()) == ["fetched", "new"]


def test_a_folder_of_ray_goes_once_no_process_owns_or_names_it(tmp_path: Path) -> None:
    from cluster.upkeep.leftovers import leftovers

    gone = subprocess.Popen(["true"])
    gone.wait()
    owners = {"dead": str(gone.pid), "alive": str(os.getpid()), "named": str(gone.pid), "unwritten": ""}
    for name, owner in owners.items():
        (tmp_path / f"tench-ray-{name}").mkdir()
        if owner:
            (tmp_path / f"tench-ray-{name}" / "owner").write_text(owner)
    using = subprocess.Popen(
        [sys.executable, "-c", "input()", str(tmp_path / "tench-ray-named")], stdin=subprocess.PIPE
    )
    try:
        found = [left.path.name for left in leftovers(time.time() + 1, tmp_path) if left.reason == "Ray folder"]
    finally:
        using.kill()
        using.wait()
    assert found == ["tench-ray-dead", "tench-ray-unwritten"]
    assert not [left for left in leftovers(time.time() - DAY, tmp_path) if left.reason == "Ray folder"]


def test_a_run_that_was_asked_for_again_since_the_decision_stays(home: Path) -> None:
    from cluster.upkeep.housekeeping import still_free
    from cluster.upkeep.keeping import Removal
    from cluster.upkeep.works import read_works

    for name in ("resumed", "evaluated", "untouched"):
        ended_run(home, name, 900)
    runs, store = home / "runs", str(home / "store.sqlite")
    before = read_works(runs, store)
    removals = [Removal(work.id, "", 1, "old run") for work in before]
    RunWriter.begin(Place(runs / "resumed"), "train", {})
    put_job(home, kind="evaluate", settings={"dataset": "/d", "run": "evaluated"})
    assert [r.run for r in still_free(removals, before, read_works(runs, store), runs)] == ["untouched"]


def test_a_killed_gc_shows_nothing_half_and_the_next_one_ends_it(home: Path, gc: Gc) -> None:
    first = ended_run(home, "old-0", 900)
    for file in range(200):
        (first / "events" / f"{file}.jsonl").write_bytes(b"")
    for number in range(1, 20):
        shutil.copytree(first, home / "runs" / f"old-{number}")
    whole = files_of(first)
    command = [sys.executable, "-m", "cluster.cli", "gc", "--yes"]
    killed = subprocess.Popen(command, env=environment(TENCH_HOME=str(home), HOME=str(home.parent)))
    while killed.poll() is None and not list((home / "runs").glob(".removed-*")):
        time.sleep(0.001)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    for folder in (home / "runs").iterdir():
        if not folder.name.startswith("."):
            assert files_of(folder) == whole, folder
    left = list((home / "runs").glob(".removed-*"))
    assert left, "the kill came too late to tell anything"
    facts = gc()
    assert facts["reasons"]["removed before"]["number"] == len(left)
    gc("--yes")
    assert list((home / "runs").iterdir()) == []


def test_a_job_whose_checkpoints_and_events_went_is_still_shown(home: Path, gc: Gc, no_ray: str) -> None:
    ended = time.time() - 100 * DAY
    job = put_job(home, kind="train", state="succeeded", attempt=1, ended_at=ended, result={"top1_error": 0.5})
    ended_run(home, job, 100, checkpoints=2)
    with serving(home, no_ray) as service:
        facts = gc("--yes")
        assert f"{job}/events" in facts["went"]
        shown = service.get(f"/v1/jobs/{job}").json()
        assert (shown["result"], shown["progress"]["done"]) == ({"top1_error": 0.5}, 3)
        assert service.get(f"/v1/jobs/{job}/events?after=0.0").json() == {"events": []}
        assert service.get(f"/v1/jobs/{job}/metrics").status == 200
        assert tench(["jobs", "watch", job, "--server", service.url]) == 0


def test_a_job_row_that_is_new_counts_from_the_store_of_its_own_place(home: Path, gc: Gc, tmp_path: Path) -> None:
    from cluster.store import Store

    ended_run(home, "evaluated", 900)
    store = Store.open(str(tmp_path / "jobs.sqlite"))
    store.add(new_job(kind="evaluate", settings={"dataset": "/d", "run": "evaluated"}))
    store.close()
    assert gc()["went"] == {"evaluated": "old run"}
    assert gc("--store", str(tmp_path / "jobs.sqlite"))["went"] == {}
