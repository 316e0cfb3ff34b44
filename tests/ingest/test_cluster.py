"""Conversions on several (simulated) nodes that come late, go, or are all there is: the same dataset each time."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from ingest.sample_source import write_sample
from ingest.settings import SampleSettings
from tests.ingest.cluster_scenarios import PER_SHARD
from tests.ingest.conftest import Convert

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
NUM_SAMPLES, NUM_SHARDS = 280, 15 + 3
MARK = "TENCH_TEST_MARK"
PATIENCE_S = 200

Play = Callable[[str], dict[str, Any]]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """240 training and 40 validation pictures, as archives."""
    out = tmp_path_factory.mktemp("source")
    write_sample(str(out), SampleSettings(num_train=24, num_val=4))
    return out / "official"


@pytest.fixture(scope="module")
def whole(source: Path, convert: Convert, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The id of the dataset that an undisturbed run makes on one node."""
    dataset = tmp_path_factory.mktemp("whole") / "dataset"
    return str(convert(source, dataset, samples_per_shard=PER_SHARD, num_actors=2)["dataset_id"])


@pytest.fixture
def play(source: Path, tmp_path: Path) -> Iterator[Play]:
    """Plays a scenario in a process of its own, of which nothing may be left."""
    mark = str(tmp_path)

    def play(scenario: str) -> dict[str, Any]:
        command = [sys.executable, "-m", "tests.ingest.cluster_scenarios", scenario, str(source), str(tmp_path)]
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=ROOT, env={**_environment(), MARK: mark}, timeout=PATIENCE_S
        )
        assert done.returncode == 0, done.stderr[-3000:]
        _, left = psutil.wait_procs(_marked(mark), timeout=10)
        assert [_words(process) for process in left] == []
        outcome: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])  # Ray has its say before
        return outcome

    yield play
    for process in _marked(mark):
        with suppress(psutil.NoSuchProcess):
            process.kill()


def _environment() -> dict[str, str]:
    """That of this process, without what its own Ray has put there."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}


def _marked(mark: str) -> list[psutil.Process]:
    """Every process of a scenario: the mark is inherited, whoever is the parent by now."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def _words(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def _of(outcome: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    """Events of a kind, in the order in which they happened."""
    return [event for event in outcome["events"] if event["kind"] == kind]


def _nodes(outcome: dict[str, Any]) -> list[str]:
    """The node of each shard."""
    return [event["node"] for event in _of(outcome, "shard")]


def test_the_head_works_alone_until_a_node_joins_which_then_does_all_the_work(play: Play, whole: str) -> None:
    outcome = play("late_node")
    assert outcome["facts"]["dataset_id"] == whole, outcome
    head, late, nodes = outcome["head"], outcome["late"], _nodes(outcome)
    assert len(nodes) == NUM_SHARDS
    assert set(nodes[:4]) == {head}
    assert set(nodes) == {head, late}
    first_late = nodes.index(late)
    by_head = [e["actor"] for e in _of(outcome, "shard") if e["node"] == head]
    assert max(by_head) <= 2  # the two that were there before; no new ones
    assert nodes[first_late:].count(head) <= 1  # what it had in hand
    assert {e["actor"] for e in _of(outcome, "shard") if e["node"] == late} == {3, 4}


def test_the_head_is_spared_if_there_are_other_nodes(play: Play, whole: str) -> None:
    outcome = play("spared_head")
    assert outcome["facts"]["dataset_id"] == whole, outcome
    assert set(_nodes(outcome)) == set(outcome["others"])


def test_lost_nodes_cost_no_attempt_and_late_ones_go_on(play: Play, whole: str) -> None:
    outcome = play("lost_nodes")
    assert outcome["facts"]["dataset_id"] == whole, outcome
    lost = _of(outcome, "actor lost")
    assert len(lost) == len(outcome["lost"]) == 3
    assert len({(event["split"], event["shard"]) for event in lost}) == 1  # first in line, each time
    assert outcome["apart"] == 0  # nothing is held against its pictures
    assert outcome["last"] in _nodes(outcome)
    assert len(_nodes(outcome)) == NUM_SHARDS


def test_a_node_that_is_lost_while_actors_start_on_it_does_not_end_the_run(play: Play, whole: str) -> None:
    outcome = play("lost_while_starting")
    assert outcome["facts"]["dataset_id"] == whole, outcome
    assert outcome["last"] in _nodes(outcome)


def test_the_head_works_again_when_the_last_other_node_is_lost(play: Play, whole: str) -> None:
    outcome = play("head_alone_again")
    assert outcome["facts"]["dataset_id"] == whole, outcome
    nodes = _nodes(outcome)
    assert (nodes[0], nodes[-1]) == (outcome["lost"], outcome["head"])


def test_a_stopped_run_keeps_its_shards_leaves_no_actor_and_goes_on_later(play: Play, whole: str) -> None:
    outcome = play("stopped")
    assert outcome["error"].startswith("Interrupted: Stopped; finished shards are kept."), outcome
    assert outcome["left"] == []
    assert 3 <= outcome["reports"] < NUM_SHARDS
    facts = outcome["rerun"]["facts"]
    assert facts["dataset_id"] == whole
    assert facts["samples_converted"] == NUM_SAMPLES - outcome["reports"] * PER_SHARD


def test_two_drivers_make_one_dataset_side_by_side(play: Play, whole: str) -> None:
    runs = play("side_by_side")["runs"]
    assert [run["facts"]["dataset_id"] for run in runs] == [whole, whole], runs
    twice = {event["path"] for run in runs for event in _of(run, "written twice")}
    assert twice
    assert sum(len(_of(run, "shard")) for run in runs) >= NUM_SHARDS + len(twice)
