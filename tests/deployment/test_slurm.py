"""docker/slurm.sh on two nodes: a job over both, nothing left behind, and jobs that go on in the next allocation."""

import json
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ingest.sample_source import write_sample
from ingest.settings import SampleSettings
from tests.deployment.allocation import ADDRESSES, CPUS, Nodes

pytestmark = pytest.mark.root
PATIENCE_S = 150
WORK = """
until tench-nodes; do sleep 0.5; done
tench submit ingest --source "$1" --dataset "$2" --samples-per-shard 8 --num-actors 4 --watch
"""
COUNT_NODES = """#!/usr/bin/env python
import json, os, sys, urllib.request
token = open(os.environ["TENCH_TOKEN_FILE"]).read().strip()
request = urllib.request.Request(os.environ["TENCH_SERVER"] + "/v1/cluster", headers={"Authorization": "Bearer " + token})
cluster = json.load(urllib.request.urlopen(request))
open("cluster.json", "w").write(json.dumps(cluster))
sys.exit(len(cluster["nodes"]) != 2)
"""


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    nodes = Nodes()
    try:
        nodes.lay()
        yield nodes
    finally:
        nodes.end()


@pytest.fixture(scope="module")
def source(nodes: Nodes) -> Path:
    """300 training pictures and 20 for validation, where both nodes see them."""
    write_sample(str(nodes.folder / "source"), SampleSettings(num_train=30, num_val=2))
    return nodes.folder / "source" / "folders"


def wait_for(condition: Callable[[], object], log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.3)


def nothing_is_left(nodes: Nodes, job: int) -> None:
    assert nodes.left_over(within_s=10) == []
    assert not (nodes.home / f"allocation-{job}").exists()
    for node in ADDRESSES:
        assert [p.name for p in nodes.tmp(node).iterdir() if "tench" in p.name or "ray" in p.name] == []


def test_a_job_runs_over_both_nodes_and_nothing_is_left_behind(nodes: Nodes, source: Path) -> None:
    count = nodes.folder / "bin" / "tench-nodes"
    count.write_text(COUNT_NODES)
    count.chmod(0o755)
    dataset = nodes.folder / "dataset"
    batch = nodes.batch(4711, "bash", "-euc", WORK, "work", str(source), str(dataset))
    assert batch.wait(PATIENCE_S) == 0, nodes.log(4711).read_text()[-3000:]
    manifest = json.loads((dataset / "manifest.json").read_text())
    assert sum(split["num_samples"] for split in manifest["splits"].values()) == 320
    cluster = json.loads((nodes.folder / "cluster.json").read_text())
    assert {node["address"] for node in cluster["nodes"]} == set(ADDRESSES.values())
    assert cluster["cpus"] == 2 * CPUS
    nothing_is_left(nodes, 4711)


def test_a_job_that_the_end_of_its_allocation_interrupts_goes_on_in_the_next(nodes: Nodes, source: Path) -> None:
    dataset = nodes.folder / "second"
    first, log = nodes.batch(4712), nodes.log(4712)
    wait_for(lambda: "the service is at" in log.read_text() or first.poll() is not None, log)
    nodes.tench(
        4712, "submit", "ingest", "--source", str(source), "--dataset", str(dataset), "--samples-per-shard", "4",
        "--num-actors", "1",
    )  # fmt: skip

    def job(allocation: int) -> dict[str, object]:
        (newest, *_) = json.loads(nodes.tench(allocation, "jobs", "list", "--json"))["jobs"]
        return dict(newest)

    wait_for(lambda: list(dataset.rglob("*.arrow")), log)
    first.send_signal(signal.SIGTERM)
    assert first.wait(PATIENCE_S) == 143, log.read_text()[-3000:]
    nothing_is_left(nodes, 4712)
    assert not (dataset / "manifest.json").exists()

    second, log = nodes.batch(4713), nodes.log(4713)
    wait_for(lambda: "the service is at" in log.read_text() or second.poll() is not None, log)
    wait_for(lambda: job(4713)["state"] in ("succeeded", "failed"), log)
    ended = job(4713)
    assert ended["state"] == "succeeded"
    assert ended["attempt"] == 2
    second.send_signal(signal.SIGTERM)
    assert second.wait(PATIENCE_S) == 143
    nothing_is_left(nodes, 4713)
