"""Killed processes: whatever dies at whatever moment, the same command ends with the same dataset."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from ingest.errors import TenchError
from ingest.progress import RunReader, RunWriter
from ingest.run import ingest
from ingest.sample_source import write_sample
from ingest.settings import IngestSettings, SampleSettings, VerifySettings
from ingest.storage import Place
from ingest.verify import verify

pytestmark = pytest.mark.slow
PER_SHARD = 8
NUM_SHARDS = 50 + 5
LAST_MOMENT = NUM_SHARDS - 10
"""Shards that are finished at the last moment at which something is killed: enough of them are left."""
PATIENCE_S = 120


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 training and 40 validation pictures, as archives."""
    out = tmp_path_factory.mktemp("source")
    write_sample(str(out), SampleSettings(num_train=40, num_val=4))
    return out / "official"


@pytest.fixture(scope="module")
def whole(source: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The id of the dataset that an undisturbed run makes."""
    facts = _to_the_end(source, tmp_path_factory.mktemp("whole"))
    assert facts["num_samples"] == 440
    return str(facts["dataset_id"])


@pytest.fixture
def started(source: Path, tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """Starts the command; whatever of it is left at the end is ended."""
    commands: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        commands.append(_command(source, tmp_path, subprocess.DEVNULL))
        return commands[-1]

    yield start
    for command in commands:
        if command.poll() is None:
            _kill_all(command)


def _command(source: Path, folder: Path, stdout: int) -> subprocess.Popen[bytes]:
    """`tench ingest` in a session of its own."""
    arguments = ["ingest", str(source), str(folder / "dataset"), "--num-actors", "2", "--json"]
    arguments += ["--samples-per-shard", str(PER_SHARD)]
    return subprocess.Popen(
        [sys.executable, "-m", "cluster.cli", *arguments], stdout=stdout, stderr=subprocess.DEVNULL,
        start_new_session=True, env={**os.environ, "TENCH_HOME": str(folder / "home")},
    )  # fmt: skip


def _to_the_end(source: Path, folder: Path) -> dict[str, Any]:
    """Run the command; its final facts."""
    command = _command(source, folder, subprocess.PIPE)
    out, _ = command.communicate(timeout=PATIENCE_S)
    facts: dict[str, Any] = json.loads(out)
    assert command.returncode == 0, facts
    return facts


def _kill_all(command: subprocess.Popen[bytes]) -> None:
    """SIGKILL to the command's process group and to every process below it."""
    below = psutil.Process(command.pid).children(recursive=True)
    os.killpg(command.pid, signal.SIGKILL)
    for process in below:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    command.wait()
    psutil.wait_procs(below, timeout=PATIENCE_S)


def _wait_for(condition: Callable[[], object], alive: Callable[[], bool]) -> None:
    """Until the condition holds or the run is over."""
    deadline = time.monotonic() + PATIENCE_S
    while alive() and not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.005)


def _num_reports(dataset: Path) -> int:
    return len(list(dataset.glob("parts/*.json")))


@pytest.mark.parametrize("seed", range(4))
def test_a_killed_command_is_taken_up_again_and_gives_the_same_dataset(
    seed: int, source: Path, whole: str, started: Callable[[], subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    choices = random.Random(seed)
    dataset = tmp_path / "dataset"
    moments = sorted(choices.sample(range(1, LAST_MOMENT), 2))
    if seed == 0:
        moments.insert(0, 0)  # as soon as there is a plan, or half of one
    for reports in moments:
        command = started()
        begun = (lambda: _num_reports(dataset) >= reports) if reports else dataset.exists  # noqa: B023
        _wait_for(begun, lambda: command.poll() is None)  # noqa: B023
        time.sleep(choices.uniform(0, 0.05))
        if seed % 2:
            command.kill()  # its actors find out, and write on until then
            command.wait()
        else:
            _kill_all(command)
        assert not (dataset / "manifest.json").exists()
    facts = _to_the_end(source, tmp_path)
    assert facts["dataset_id"] == whole
    assert facts["samples_converted"] <= 440 - max(moments) * PER_SHARD
    assert verify(str(dataset), VerifySettings())["ok"]


def test_an_interrupted_command_keeps_its_shards_and_says_so(
    source: Path, whole: str, started: Callable[[], subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    command = started()
    _wait_for(lambda: _num_reports(tmp_path / "dataset") >= 3, lambda: command.poll() is None)
    command.send_signal(signal.SIGINT)
    assert command.wait(PATIENCE_S) == 130
    finished = _num_reports(tmp_path / "dataset")
    facts = _to_the_end(source, tmp_path)
    assert facts["dataset_id"] == whole
    assert facts["samples_converted"] == 440 - finished * PER_SHARD


class _Running:
    """A conversion in a thread of this process, with the record of its run."""

    def __init__(self, source: Path, folder: Path, **settings: Any) -> None:
        self.run, self.dataset = Place(folder / "run"), folder / "dataset"
        self.facts: dict[str, Any] = {}
        self.error: TenchError | None = None
        self._settings = IngestSettings(**settings)
        self.thread = threading.Thread(target=self._work, args=(source,))
        self.thread.start()

    def _work(self, source: Path) -> None:
        writer = RunWriter.begin(self.run, "ingest", {})
        try:
            self.facts = ingest(str(source), str(self.dataset), self._settings, writer)
        except TenchError as error:
            self.error = error
        writer.flush()

    def actors(self, title: str = "ray::_Converter") -> list[psutil.Process]:
        """The processes that convert; `ray::_Converter.make` while they have a shard in hand."""
        found = []
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                if " ".join(process.cmdline()).startswith(title):
                    found.append(process)
        return found

    def kinds(self) -> list[str]:
        """The events of the run, by kind."""
        return [event.kind for event in RunReader(self.run).events()]


@pytest.mark.parametrize("seed", range(2))
def test_killed_actors_are_replaced_and_the_run_gives_the_same_dataset(
    seed: int, source: Path, whole: str, ray_session: None, tmp_path: Path
) -> None:
    choices = random.Random(seed)
    running = _Running(source, tmp_path, num_actors=2, samples_per_shard=PER_SHARD)
    for reports in sorted(choices.sample(range(1, LAST_MOMENT), 2)):
        _wait_for(lambda: _num_reports(running.dataset) >= reports, running.thread.is_alive)  # noqa: B023
        choices.choice(running.actors()).kill()
    running.thread.join(PATIENCE_S)
    assert running.facts["dataset_id"] == whole
    assert running.kinds().count("actor lost") == 2
    assert running.kinds().count("shard") == NUM_SHARDS


def test_a_frozen_actor_is_given_up_and_its_shard_done_by_another(
    source: Path, whole: str, ray_session: None, tmp_path: Path
) -> None:
    running = _Running(source, tmp_path, num_actors=2, samples_per_shard=PER_SHARD, picture_timeout_s=2)
    _wait_for(lambda: _num_reports(running.dataset) >= 5, running.thread.is_alive)
    frozen = running.actors()[0]
    frozen.suspend()
    running.thread.join(PATIENCE_S)
    assert running.facts["dataset_id"] == whole
    lost = [e for e in RunReader(running.run).events() if e.kind == "actor lost"]
    assert [("stalled on shard" in e.text, e.data["reason"]) for e in lost] == [(True, "no result after 2 s")]
    psutil.wait_procs([frozen], PATIENCE_S)  # Ray takes some seconds to kill a process that is stopped
    assert not frozen.is_running()


def test_the_last_shard_of_a_slow_actor_is_made_by_a_second_one_as_well(
    source: Path, whole: str, ray_session: None, tmp_path: Path
) -> None:
    running = _Running(source, tmp_path, num_actors=2, samples_per_shard=PER_SHARD, picture_timeout_s=600)
    _wait_for(lambda: _num_reports(running.dataset) >= 5, running.thread.is_alive)
    frozen = running.actors()[0]
    frozen.suspend()
    running.thread.join(PATIENCE_S)
    psutil.wait_procs([frozen], PATIENCE_S)
    assert running.facts["dataset_id"] == whole
    assert running.kinds().count("straggler") == 1
    assert "actor lost" not in running.kinds()


def test_a_shard_that_kills_every_process_ends_the_run_and_is_named(
    source: Path, ray_session: None, tmp_path: Path
) -> None:
    running = _Running(source, tmp_path, num_actors=1, samples_per_shard=1000)
    killed: set[int] = set()
    while running.thread.is_alive():
        for process in running.actors("ray::_Converter.make"):
            if process.pid not in killed:
                killed.add(process.pid)
                process.kill()
        time.sleep(0.01)
    assert running.error is not None
    assert "shard train 0 failed 3 times" in running.error.message
    assert running.kinds().count("actor lost") == 3
    assert not (running.dataset / "manifest.json").exists()
