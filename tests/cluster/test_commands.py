"""A command's end: each way of failing has its exit code and its record in the run folder."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cluster.commands import Outcome, execute
from cluster.settings import IngestRequest, RepairRequest, VerifyRequest
from ingest.errors import BudgetError, DamageError, Interrupted, RefusedError, TenchError, UsageError
from ingest.progress import RunWriter
from ingest.storage import Place
from tests.cluster.served import environment
from tests.conftest import TinySource


@pytest.fixture
def run(tmp_path: Path) -> RunWriter:
    return RunWriter.begin(Place(tmp_path / "run"), "verify", {})


def recorded(run: RunWriter) -> dict[str, Any]:
    """The result as it lies in the run folder."""
    found: dict[str, Any] = json.loads(run.place.local_path(f"result/{run.attempt:04d}.json").read_text())
    return found


def events(run: RunWriter) -> list[tuple[str, str]]:
    folder = run.place.local_path(f"events/{run.attempt:04d}")
    lines = [json.loads(line) for file in sorted(folder.iterdir()) for line in file.read_text().splitlines()]
    return [(line["kind"], line["text"]) for line in lines]


def ended(run: RunWriter, outcome: Outcome, state: str, code: int, *words: str) -> None:
    """The command ended so, and its record says the same."""
    told = recorded(run)
    assert (outcome.state, outcome.exit_code) == (told["state"], told["exit_code"]) == (state, code)
    assert outcome.error == told["error"]
    assert all(word in str(told["error"]) for word in words), told


def copy_of(dataset: str, folder: Path) -> Path:
    return Path(shutil.copytree(dataset, folder / "dataset"))


def test_what_is_done_is_recorded_with_its_facts(run: RunWriter, tiny_dataset: str) -> None:
    outcome = execute(VerifyRequest(dataset=tiny_dataset), run)
    ended(run, outcome, "succeeded", 0)
    assert recorded(run)["facts"] == outcome.facts
    assert (outcome.facts["ok"], outcome.facts["num_samples"]) == (True, 90)


def test_a_dataset_that_is_not_there_is_refused_with_3(run: RunWriter, tmp_path: Path) -> None:
    outcome = execute(VerifyRequest(dataset=f"{tmp_path}/missing"), run)
    ended(run, outcome, "failed", 3, f"{tmp_path}/missing", "no such dataset")
    assert events(run)[-1] == ("failed", outcome.error)


def test_damage_is_4_and_names_the_file(run: RunWriter, tiny_dataset: str, tmp_path: Path) -> None:
    dataset = copy_of(tiny_dataset, tmp_path)
    shard = dataset / "train/00000.arrow"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    outcome = execute(VerifyRequest(dataset=str(dataset)), run)
    ended(run, outcome, "failed", 4, "train/00000.arrow")
    assert "train/00000.arrow" in [d["path"] for d in recorded(run)["facts"]["damages"]]


def damage_in(paths: list[str]) -> dict[str, object]:
    """The facts of a command that found, or left, damage."""
    return {"ok": False, "damages": [{"path": path, "problem": "p"} for path in paths]}


REMEDY = "`tench repair DATASET --source SOURCE` gives damaged files their recorded bytes again"
UNDAMAGED = "the dataset itself is undamaged; is this its source?"


@pytest.mark.parametrize(
    ("paths", "said"),
    [
        (["a"], f"1 finding of damage in 1 file (a); {REMEDY}"),
        (["a", "a"], f"2 findings of damage in 1 file (a); {REMEDY}"),
        (["b", "a", "b"], f"3 findings of damage in 2 files (first a); {REMEDY}"),
        (["/s"], f"1 difference from /s; {UNDAMAGED}"),
        (["/s", "/s"], f"2 differences from /s; {UNDAMAGED}"),
        (["/s", "a", "/s"], f"1 finding of damage in 1 file (a); 2 differences from /s; {REMEDY}"),
    ],
)
def test_damage_is_counted_apart_from_what_differs_from_a_source(
    run: RunWriter, monkeypatch: pytest.MonkeyPatch, paths: list[str], said: str
) -> None:
    monkeypatch.setattr("ingest.verify.verify", lambda *arguments: damage_in(paths))
    outcome = execute(VerifyRequest(dataset="/d", source="/s/"), run)
    ended(run, outcome, "failed", 4)
    assert outcome.error == said


@pytest.mark.parametrize(
    ("paths", "said"), [(["a"], "1 file is still damaged (a)"), (["a", "b"], "2 files are still damaged (first a)")]
)
def test_a_repair_says_how_many_files_are_still_damaged(
    run: RunWriter, monkeypatch: pytest.MonkeyPatch, paths: list[str], said: str
) -> None:
    monkeypatch.setattr("ingest.repair.repair", lambda *arguments: damage_in(paths))
    outcome = execute(RepairRequest(dataset="/d", source="/s"), run)
    assert (outcome.exit_code, outcome.error) == (4, said)


def test_a_whole_dataset_is_repaired_without_ray(tiny_dataset: str, tmp_path: Path) -> None:
    command = ["repair", tiny_dataset, "--source", f"{tmp_path}/none"]
    script = f"""
import sys
from cluster.cli.app import run
assert run({command!r}) == 0
sys.exit("ray was loaded" if "ray" in sys.modules else 0)
"""
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False,
        env=environment(TENCH_HOME=f"{tmp_path}/home"),
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert "Nothing is damaged: nothing to do." in ended.stderr
    assert "repaired 0" in " ".join(ended.stdout.split())


@pytest.mark.slow
def test_a_damaged_shard_is_repaired_with_a_ray_that_is_started_then(
    tiny_dataset: str, tiny_source: TinySource, tmp_path: Path
) -> None:
    dataset = copy_of(tiny_dataset, tmp_path)
    (dataset / "train/00000.arrow").write_bytes(b"damaged")
    ended = subprocess.run(
        [sys.executable, "-m", "cluster.cli", "repair", str(dataset), "--source", str(tiny_source.folders)],
        capture_output=True, text=True, timeout=200, check=False, env=environment(TENCH_HOME=f"{tmp_path}/home"),
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert "Starting Ray on this machine" in ended.stderr
    told = " ".join(ended.stdout.split())
    assert f"repaired 1 set aside 0 damaged files in {dataset}/damaged" in told


def test_a_manifest_that_was_changed_is_4(run: RunWriter, tiny_dataset: str, tmp_path: Path) -> None:
    manifest = copy_of(tiny_dataset, tmp_path) / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"wnid"', '"wnld"', 1))
    ended(run, execute(VerifyRequest(dataset=str(manifest.parent)), run), "failed", 4, "manifest.json")


def test_too_many_bad_pictures_are_5(
    run: RunWriter, tiny_source: TinySource, ray_session: None, tmp_path: Path
) -> None:
    source = Path(shutil.copytree(tiny_source.folders, tmp_path / "source"))
    wnid = sorted((source / "train").iterdir())[0]
    (wnid / f"{wnid.name}_9999.JPEG").write_bytes(b"this is no picture")
    request = IngestRequest(source=str(source), dataset=f"{tmp_path}/out", max_bad="0", num_actors=2)
    ended(run, execute(request, run), "failed", 5, "--max-bad 0 allows 0", f"{tmp_path}/out/quarantine")
    assert not (tmp_path / "out/manifest.json").exists()


def test_a_stop_that_was_asked_for_is_130(run: RunWriter, tiny_dataset: str) -> None:
    run.request_stop()
    outcome = execute(VerifyRequest(dataset=tiny_dataset), run)
    ended(run, outcome, "stopped", 130, "Stopped")
    assert events(run)[-1] == ("stopped", outcome.error)


@pytest.mark.parametrize(
    ("error", "state", "code", "said"),
    [
        (TenchError("no space"), "failed", 1, "no space"),
        (UsageError("--side 5"), "failed", 2, "--side 5"),
        (RefusedError("not empty"), "failed", 3, "not empty"),
        (DamageError("one bit"), "failed", 4, "one bit"),
        (BudgetError("25 bad"), "failed", 5, "25 bad"),
        (Interrupted("stopped"), "stopped", 130, "stopped"),
        (KeyboardInterrupt(), "stopped", 130, "Interrupted"),
        (ZeroDivisionError("ours"), "failed", 1, "ZeroDivisionError: ours"),
        (MemoryError(), "failed", 1, "MemoryError"),
    ],
)
def test_each_error_has_its_exit_code(
    run: RunWriter, monkeypatch: pytest.MonkeyPatch, error: BaseException, state: str, code: int, said: str
) -> None:
    def fail(*arguments: Any) -> dict[str, Any]:
        raise error

    monkeypatch.setattr("ingest.verify.verify", fail)
    ended(run, execute(VerifyRequest(dataset="/d"), run), state, code, said)


def test_a_first_interrupt_asks_and_a_second_one_ends_at_once(run: RunWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    seen: list[bool] = []

    def work(*arguments: Any) -> dict[str, Any]:
        for number in (signal.SIGTERM, signal.SIGINT):
            seen.append(run.stop_requested())
            os.kill(os.getpid(), number)
        raise AssertionError("the second interrupt was ignored")

    monkeypatch.setattr("ingest.verify.verify", work)
    ended(run, execute(VerifyRequest(dataset="/d"), run), "stopped", 130, "Interrupted")
    assert seen == [False, True]
    assert run.place.exists("stop/0001.json")
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_driver_whose_run_was_taken_over_leaves_no_result(run: RunWriter, tiny_dataset: str) -> None:
    successor = RunWriter.begin(run.place, "verify", {})
    outcome = execute(VerifyRequest(dataset=tiny_dataset), run)
    assert (outcome.state, outcome.exit_code) == ("failed", 1)
    assert "could not be written" in str(outcome.error)
    assert not run.place.exists("result/0001.json")
    ended(successor, execute(VerifyRequest(dataset=tiny_dataset), successor), "succeeded", 0)
