"""Three hosts, of which one is cut off while it converts: it writes on, another does its shards, the dataset is one.

Each host is a network namespace with a Ray node in it; this machine's disk is the folder that they share.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ingest.sample_source import write_sample
from ingest.settings import SampleSettings
from tests.hosts import CUT, HEAD, OTHER, PORT, STARTED, Hosts, network
from tests.ingest.cluster_scenarios import PER_SHARD
from tests.ingest.conftest import Convert

pytestmark = pytest.mark.root
CUT_S = 120
FAST_S, SLOW_S = "0.25", "1.25"
"""Seconds for a picture on the host that is cut off, and on the other: what the first began, it ends first."""
PATIENCE_S = 120


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    with network() as hosts:
        yield hosts


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 training and 40 validation pictures, as archives."""
    out = tmp_path_factory.mktemp("source")
    write_sample(str(out), SampleSettings(num_train=40, num_val=4))
    return out / "official"


@pytest.fixture(scope="module")
def whole(source: Path, convert: Convert, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The id of the dataset that an undisturbed run makes on this machine."""
    dataset = tmp_path_factory.mktemp("whole") / "dataset"
    return str(convert(source, dataset, samples_per_shard=PER_SHARD, num_actors=2)["dataset_id"])


class Watched:
    """A run that another process drives, by what it has told so far."""

    def __init__(self, folder: Path, driver: "subprocess.Popen[bytes]") -> None:
        self._path, self._driver = folder / "run-events.jsonl", driver

    def events(self, kind: str) -> list[dict[str, Any]]:
        """Events of a kind so far, in order."""
        lines = self._path.read_text().splitlines(keepends=True) if self._path.exists() else []
        told = [json.loads(line) for line in lines if line.endswith("\n")]
        return [event for event in told if event["kind"] == kind]

    def wait_for(self, condition: Callable[[], object], what: str) -> None:
        """Until it holds; fails if the run ends before, or nothing happens."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert self._driver.poll() is None, f"the run is over: {what}"
            assert time.monotonic() < deadline, f"in vain: {what}"
            time.sleep(0.1)


def test_a_host_that_is_cut_off_and_writes_on_does_no_harm(
    hosts: Hosts, source: Path, whole: str, tmp_path: Path
) -> None:
    hold = tmp_path / "hold"
    hosts.ray(HEAD, "head.log", 0)
    hosts.wait_for_words("head.log", STARTED)
    fast: dict[str, Any] = {"TENCH_TEST_SLEEP_S": FAST_S, "TENCH_TEST_HOLD": str(hold)}
    node = hosts.ray(CUT, "cut.log", 2, **fast)
    hosts.ray(OTHER, "other.log", 2, TENCH_TEST_SLEEP_S=SLOW_S)
    command = [sys.executable, "-m", "tests.ingest.cluster_scenarios", "converting", str(source), str(tmp_path)]
    driver = hosts.start(HEAD, "driver.log", command, RAY_ADDRESS=f"{HEAD}:{PORT}")
    run = Watched(tmp_path, driver)

    run.wait_for(lambda: {e["host"] for e in run.events("shard")} == {CUT, OTHER}, "both hosts work")
    hold.touch()
    time.sleep(2)  # what was finished is told; both actors have begun another shard
    hosts.set_link(CUT, "down")
    cut_at = time.monotonic()
    run.wait_for(lambda: len(run.events("actor lost")) == 2, "both actors of the host are given up")
    hold.unlink()
    run.wait_for(lambda: len(run.events("written twice")) == 2, "their shards are done by the other host as well")
    run.wait_for(lambda: time.monotonic() - cut_at > CUT_S, "the run goes on meanwhile")
    hosts.set_link(CUT, "up")
    node.wait(PATIENCE_S)  # Ray ends a node that was declared dead
    num_before = len(run.events("shard"))
    hosts.ray(CUT, "again.log", 2, **fast)

    driver.wait(PATIENCE_S)
    outcome = json.loads((hosts.folder / "driver.log").read_text().splitlines()[-1])
    assert outcome["facts"]["dataset_id"] == whole, outcome
    _assert_written_twice(run, tmp_path / "dataset")
    assert CUT in {event["host"] for event in run.events("shard")[num_before:]}


def _assert_written_twice(run: Watched, dataset: Path) -> None:
    """By the host that was cut off, after it was given up, and by the other one; both are named."""
    lost = {event["actor"]: event for event in run.events("actor lost")}
    assert {event["host"] for event in lost.values()} == {CUT}
    for event in run.events("written twice")[:2]:
        first, second = event["actors"]
        assert f"by actor {first} on {CUT} and by actor {second} on {OTHER}." in event["text"]
        assert (dataset / event["path"]).stat().st_mtime > lost[first]["at"]
