"""Three hosts, of which one is cut off while it converts: it writes on, another does its shards, the dataset is one.

Each host is a network namespace with a Ray node in it; this machine's disk is the folder that they share.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from cluster.ray_session import OBJECT_STORE_BYTES, private_folder
from ingest.sample_source import write_sample
from ingest.settings import SampleSettings
from tests.ingest.cluster_scenarios import PER_SHARD
from tests.ingest.conftest import Convert

pytestmark = pytest.mark.root
ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
MARK = "TENCH_TEST_MARK"
HEAD, CUT, OTHER = "10.77.0.1", "10.77.0.2", "10.77.0.3"
PORT = 6379
CUT_S = 120
FAST_S, SLOW_S = "0.25", "1.25"
"""Seconds for a picture on the host that is cut off, and on the other: what the first began, it ends first."""
PATIENCE_S = 120


class Hosts:
    """Namespaces on a bridge, which is in a namespace of its own; whatever was started in them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._sockets = folder / "ray"
        """Where Ray keeps its sockets: the same name on every host, and a folder of its own behind it."""
        self._sockets.mkdir()
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
            "PATH": f"{BIN}:{os.environ.get('PATH', '')}", MARK: str(folder), "PYTHONUNBUFFERED": "1",
            "RAY_TMPDIR": str(folder), "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
            # A host that is cut off is dead after (3 s + 3 s) x 5.
            "RAY_health_check_timeout_ms": "3000", "RAY_health_check_period_ms": "3000",
        }  # fmt: skip

    def _name(self, host: str) -> str:
        return f"tench-{os.getpid()}-{host.rpartition('.')[2]}"

    def lay(self) -> None:
        """Lay the network."""
        hub = self._name("hub")
        _ip("netns", "add", hub)
        _ip("-n", hub, "link", "add", "bridge", "type", "bridge")
        _ip("-n", hub, "addr", "add", "10.77.0.254/24", "dev", "bridge")
        _ip("-n", hub, "link", "set", "bridge", "up")
        for host in (HEAD, CUT, OTHER):
            name, port = self._name(host), f"to{host.rpartition('.')[2]}"
            _ip("netns", "add", name)
            _ip("-n", hub, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", name)
            _ip("-n", hub, "link", "set", port, "master", "bridge", "up")
            _ip("-n", name, "addr", "add", f"{host}/24", "dev", "eth0")
            _ip("-n", name, "link", "set", "lo", "up")
            _ip("-n", name, "link", "set", "eth0", "up")
            _ip("-n", name, "route", "add", "default", "via", "10.77.0.254")

    def set_link(self, host: str, state: str) -> None:
        """`up` or `down`: the cable between a host and the bridge."""
        _ip("-n", self._name("hub"), "link", "set", f"to{host.rpartition('.')[2]}", state)

    def start(self, host: str, log: str, command: list[str], **environment: str) -> "subprocess.Popen[bytes]":
        """Start a command on a host; what it says goes into files of the folder."""
        own = self.folder / f"ray-of-{host}"
        own.mkdir(exist_ok=True)
        alone = ["sh", "-c", 'mount --bind "$0" "$1" && shift && exec "$@"', str(own), str(self._sockets)]
        with (self.folder / log).open("wb") as output, (self.folder / f"{log}.err").open("wb") as errors:
            return subprocess.Popen(
                ["ip", "netns", "exec", self._name(host), *alone, *command], cwd=ROOT, stdout=output, stderr=errors,
                env={**self.environment, **environment},
            )  # fmt: skip

    def ray(self, host: str, log: str, num_cpus: int, **environment: str) -> "subprocess.Popen[bytes]":
        """Start a Ray node, the head on the first host."""
        where = ["--head", f"--port={PORT}", f"--temp-dir={self._sockets}", "--include-dashboard=false"]
        command = [str(BIN / "ray"), "start", "--block", "--disable-usage-stats", f"--node-ip-address={host}"]
        command += where if host == HEAD else [f"--address={HEAD}:{PORT}"]
        command += [f"--num-cpus={num_cpus}", f"--object-store-memory={OBJECT_STORE_BYTES // 2}"]
        return self.start(host, log, command, **environment)

    def end(self) -> None:
        """End every process of the hosts, and the network."""
        for _ in range(2):  # some may have been starting others
            ours = [process for process in psutil.process_iter() if _has_mark(process, str(self.folder))]
            for process in ours:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(ours, timeout=10)
        for host in (HEAD, CUT, OTHER, "hub"):
            subprocess.run(["ip", "netns", "delete", self._name(host)], capture_output=True)


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"


def _has_mark(process: psutil.Process, mark: str) -> bool:
    with suppress(psutil.Error):
        return bool(process.environ().get(MARK) == mark)
    return False


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    hosts = Hosts(private_folder())
    try:
        hosts.lay()
        yield hosts
    finally:
        hosts.end()
        subprocess.run(["rm", "-rf", str(hosts.folder)], check=True)


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


def _wait_for_words(log: Path, words: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while words not in log.read_text():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)


def test_a_host_that_is_cut_off_and_writes_on_does_no_harm(
    hosts: Hosts, source: Path, whole: str, tmp_path: Path
) -> None:
    hold = tmp_path / "hold"
    hosts.ray(HEAD, "head.log", 0)
    _wait_for_words(hosts.folder / "head.log", "Ray runtime started")
    fast = {"TENCH_TEST_SLEEP_S": FAST_S, "TENCH_TEST_HOLD": str(hold)}
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
