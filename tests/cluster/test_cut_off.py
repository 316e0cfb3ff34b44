"""The head of a cluster, and the service beside it, cut off from the hosts on which drivers work: nothing is lost.

Each host is a network namespace with a Ray node in it; this machine's disk is the folder that they share, so what is
cut off can write on.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ingest.sample_source import write_sample
from ingest.settings import SampleSettings
from tests.cluster.work import KINDS, drivers, made_by, settings_of
from tests.hosts import CUT, DASHBOARD, HEAD, OTHER, STARTED, Hosts, network

pytestmark = [pytest.mark.root, pytest.mark.timeout(1500)]
AT_ONCE = 6
LONG = {"ingest": {"samples_per_shard": 2}, "train": {"epochs": 3}, "train-here": {"epochs": 4}}
"""So that the work is under way when the cable is pulled."""
MAX_ATTEMPTS, PATIENCE_S = 20, 400
PULLED_S = 45
"""Ray gives up a host after 30 s."""


class Service:
    """A service on the head's host, asked by HTTP from there."""

    def __init__(self, hosts: Hosts, home: Path) -> None:
        self.hosts, self.home = hosts, home
        command = [
            sys.executable, "-m", "cluster.cli", "serve", "--home", str(home), "--root", str(home / "data"),
            "--ray-address", DASHBOARD,
        ]  # fmt: skip
        hosts.start(HEAD, "serve.log", command)
        self._wait(lambda: (home / "service.json").exists(), "the service starts")

    def submit(self, kind: str, name: str) -> str:
        """Ask for a job; its id."""
        settings = settings_of(kind, self.home / "data", name, **LONG[kind])
        body = {"kind": kind.split("-")[0], "settings": settings, "name": name, "max_attempts": MAX_ATTEMPTS}
        return str(self._ask("POST", "/v1/jobs", body)["id"])

    def job(self, job_id: str) -> dict[str, Any]:
        """What the service shows of a job."""
        shown: dict[str, Any] = self._ask("GET", f"/v1/jobs/{job_id}")
        return shown

    def wait(self, ids: list[str], holds: Callable[[dict[str, Any]], Any], what: str) -> list[dict[str, Any]]:
        """The jobs, as soon as it holds for each of them."""
        found: list[dict[str, Any]] = []

        def all_hold() -> bool:
            found[:] = [self.job(job_id) for job_id in ids]
            return all(holds(job) for job in found)

        self._wait(all_hold, what)
        return found

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        url = json.loads((self.home / "service.json").read_text())["url"] + path
        code = (
            "import sys, urllib.request as u; a = sys.argv; "
            "r = u.Request(a[2], a[3].encode() or None, {'Content-Type': 'application/json'}, method=a[1]); "
            "sys.stdout.write(u.urlopen(r, timeout=30).read().decode())"
        )
        done = self.hosts.run(HEAD, [sys.executable, "-c", code, method, url, json.dumps(body) if body else ""])
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def _wait(self, condition: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, f"in vain: {what}\n{(self.hosts.folder / 'serve.log.err').read_text()}"
            time.sleep(0.5)


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    with network() as hosts:
        yield hosts


def _start_workers(hosts: Hosts, turn: int) -> list[Any]:
    return [hosts.ray(host, f"{host}-{turn}.log", 2) for host in (CUT, OTHER)]


def test_a_head_that_is_cut_off_from_its_drivers_loses_and_doubles_nothing(hosts: Hosts, tmp_path: Path) -> None:
    write_sample(str(tmp_path / "data/source"), SampleSettings(num_train=60, num_val=6))
    hosts.ray(HEAD, "head.log", 0, has_dashboard=True, RAY_JOB_ALLOW_DRIVER_ON_WORKER_NODES="1")
    hosts.wait_for_words("head.log", STARTED)
    nodes = _start_workers(hosts, 0)
    service = Service(hosts, tmp_path)
    wanted = _undisturbed(service)

    asked = {service.submit(kind, f"{kind}-{i}"): kind for i in range(1, 1 + AT_ONCE // len(KINDS)) for kind in KINDS}
    service.wait(list(asked), lambda job: job["state"] == "running" or job["has_ended"], "all are at work")
    away = [job_id for job_id, driver in drivers(tmp_path).items() if not hosts.is_on(HEAD, driver)]
    assert away, "every driver is on the head's host"  # Ray puts each on any host: once in 729 times
    hosts.set_link(HEAD, "down")
    time.sleep(PULLED_S)
    hosts.set_link(HEAD, "up")
    for node in nodes:
        node.wait(PATIENCE_S)  # Ray ends a node that was declared dead; who runs it starts it again
    _start_workers(hosts, 1)

    jobs = service.wait(list(asked), lambda job: job["has_ended"], "all end")
    assert [(job["state"], job["error"]) for job in jobs] == [("succeeded", None)] * len(jobs)
    assert {job["id"]: made_by(tmp_path, job) for job in jobs} == {
        job_id: wanted[kind] for job_id, kind in asked.items()
    }


def _undisturbed(service: Service) -> dict[str, str]:
    """What each kind of work makes when nobody disturbs it."""
    first = service.submit("ingest", "ingest-0")
    jobs = service.wait([first], lambda job: job["has_ended"], "the dataset is made")
    ids = [service.submit(kind, f"{kind}-0") for kind in KINDS[1:]]
    jobs += service.wait(ids, lambda job: job["has_ended"], "the trainings end")
    made = {kind: made_by(service.home, job) for kind, job in zip(KINDS, jobs, strict=True)}
    assert all(made.values()), jobs
    return made
