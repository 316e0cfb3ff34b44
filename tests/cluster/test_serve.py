"""`tench serve` with its own Ray, killed and stopped at bad moments: work goes on, and nothing is left behind.

Everything is seen from outside: HTTP, the run folder as plain files, the system's process and socket tables.
"""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from cluster import launcher, ray_keeper

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

START_S, STOP_S, JOB_S = 120, 90, 400


class Served:
    """A home folder and the `tench serve` that works in it, which may come and go."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the service and wait until it is ready."""
        command = [sys.executable, "-m", "cluster.cli", "serve", "--port", "0", "--home", str(self.home)]
        with (self.home / "serve.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        wait_until(lambda: (self.home / "service.json").is_file() and self.call("/readyz") is not None, START_S)

    def call(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """GET, or POST of a JSON body; None while nothing answers."""
        url = json.loads((self.home / "service.json").read_text())["url"]
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url + path, data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.load(answer)
        except (ConnectionError, urllib.error.URLError):
            return None

    def submit(self, kind: str, **settings: Any) -> str:
        return str(self.call("/v1/jobs", {"kind": kind, "settings": settings})["id"])

    def job(self, job: str) -> dict[str, Any]:
        found: dict[str, Any] = self.call(f"/v1/jobs/{job}")
        return found

    def wait_for(self, job: str, *states: str) -> dict[str, Any]:
        """The job once it is in one of the states; fails if it ends in another one."""

        def is_there() -> bool:
            found = self.job(job)
            return found["has_ended"] or found["state"] in states

        wait_until(is_there, JOB_S)
        found = self.job(job)
        assert found["state"] in states, found["error"]
        return found

    def end(self, number: int = signal.SIGTERM) -> int:
        """Signal the service and wait for its exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        code = self.process.wait(STOP_S)
        self.process = None
        return code


def wait_until(holds: Callable[[], bool], within_s: float) -> None:
    """Fail unless it holds before long."""
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, f"still not so after {within_s} s"
        time.sleep(0.2)


def _title(process: psutil.Process) -> str:
    """What a process of Ray's calls itself; empty if it is gone."""
    with suppress(psutil.NoSuchProcess):
        return " ".join(process.cmdline()[:1]).strip()
    return ""


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """A service on a home of its own; ended by force if a test leaves it running."""
    home = tmp_path / "home"
    home.mkdir()
    service = Served(home)
    service.start()
    yield service
    if service.process is not None and service.process.poll() is None:
        service.end()


@pytest.fixture
def source(served: Served) -> Path:
    """Class folders of 80 training and 20 validation pictures under the service's root."""
    from ingest.sample_source import write_sample
    from ingest.settings import SampleSettings

    write_sample(str(served.home / "data" / "source"), SampleSettings(num_train=8, num_val=2))
    return served.home / "data" / "source" / "folders"


def ray_processes(served: Served) -> list[psutil.Process]:
    """Processes of the service's own Ray, by the folder that its note names."""
    folder = json.loads((served.home / "ray.json").read_text())["folder"]
    return [p for p in psutil.process_iter(["cmdline"]) if folder in " ".join(p.info["cmdline"] or [])]


def listening_addresses(processes: list[psutil.Process]) -> set[str]:
    """Addresses on which processes, and the processes they started, listen."""
    found = set()
    for process in {child for p in processes for child in (p, *p.children(recursive=True))}:
        for connection in process.net_connections(kind="inet"):
            if connection.status == psutil.CONN_LISTEN:
                found.add(connection.laddr.ip.removeprefix("::ffff:"))  # IPv4 in IPv6 clothes
    return found


def test_a_training_survives_kill_of_the_service_stop_and_resume(served: Served, source: Path) -> None:
    dataset = str(served.home / "data" / "ten")
    served.wait_for(served.submit("ingest", source=str(source), dataset=dataset), "succeeded")
    job = served.submit("train", dataset=dataset, preset="demo", epochs=4)
    wait_until(lambda: bool((served.job(job)["progress"] or {}).get("done")), JOB_S)
    driver = json.loads((served.home / "runs" / job / "attempts" / "0001.json").read_text())["pid"]
    served.end(signal.SIGKILL)
    assert psutil.pid_exists(driver), "the job goes on without the service"
    served.start()
    assert served.job(job)["state"] == "running"
    assert served.job(job)["attempt"] == 1, "it was found again, not started again"
    served.call(f"/v1/jobs/{job}/stop", {})
    stopped = served.wait_for(job, "stopped")
    assert stopped["exit_code"] == 130
    steps = sorted(p.name for p in (served.home / "runs" / job / "checkpoints").iterdir())
    assert steps, "a stop leaves a checkpoint"
    served.call(f"/v1/jobs/{job}/resume", {})
    done = served.wait_for(job, "succeeded")
    assert done["attempt"] == 2
    assert done["result"]["steps"] == 4 * 5, "80 samples in batches of 16: no step was lost or done twice"


def test_a_killed_driver_and_a_killed_actor_of_rays_are_new_attempts_that_go_on(served: Served, source: Path) -> None:
    dataset = str(served.home / "data" / "ten")
    served.wait_for(served.submit("ingest", source=str(source), dataset=dataset), "succeeded")
    job = served.submit(
        "train", dataset=dataset, preset="demo", epochs=3, checkpoint_minutes=1e-9, switch=["network.hidden=[64, 32]"]
    )
    run = served.home / "runs" / job
    wait_until(lambda: list(run.glob("checkpoints/*/hashes.json")) != [], JOB_S)
    os.kill(json.loads((run / "attempts" / "0001.json").read_text())["pid"], signal.SIGKILL)
    wait_until(
        lambda: served.job(job)["attempt"] == 2 and list(run.glob("checkpoints/*.0002/hashes.json")) != [], JOB_S
    )
    head = psutil.Process(json.loads((served.home / "ray.json").read_text())["pid"])
    controllers = [p for p in head.children(recursive=True) if "TrainController" in _title(p)]
    assert len(controllers) == 1
    controllers[0].kill()
    done = served.wait_for(job, "succeeded")
    assert (done["attempt"], done["result"]["steps"]) == (3, 3 * 5)
    told = [move["reason"] for move in served.call(f"/v1/jobs/{job}/moves")["moves"] if move["state"] == "lost"]
    assert len(told) == 2
    assert "the training job lost its workers in Ray" in told[1]


def test_a_head_that_answers_but_takes_no_jobs_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_keeper, "REFUSES_FOR_S", 3.0)
    monkeypatch.setattr(launcher, "TIMEOUT_S", 2.0)
    keeper = ray_keeper.RayKeeper(tmp_path, 1)
    try:
        first = json.loads((tmp_path / "ray.json").read_text())
        children = psutil.Process(first["pid"]).children(recursive=True)
        hanging = next(p for p in children if _title(p) == "ray::DashboardAgent")
        hanging.suspend()
        deadline = time.monotonic() + JOB_S
        while True:
            try:
                keeper.ray.submit("a-job", {"TENCH_RUN": "", "TENCH_ATTEMPT": "1"})
                break
            except launcher.RayUnreachable:
                assert time.monotonic() < deadline
                time.sleep(0.2)
        assert json.loads((tmp_path / "ray.json").read_text())["pid"] != first["pid"]
        assert not psutil.pid_exists(hanging.pid)
    finally:
        keeper.end()


def test_everything_listens_on_loopback_and_is_gone_after_the_end(served: Served) -> None:
    ray = ray_processes(served)
    folder = Path(json.loads((served.home / "ray.json").read_text())["folder"])
    assert served.process is not None
    own = psutil.Process(served.process.pid)
    assert len(ray) >= 3
    assert listening_addresses([own, *ray]) == {"127.0.0.1"}
    everyone = [own, *ray, *(c for p in ray for c in p.children(recursive=True))]
    assert served.end() == 0
    _, alive = psutil.wait_procs(everyone, timeout=5)
    assert alive == []
    assert not folder.exists()
    assert not (served.home / "service.json").exists()


def test_ray_of_the_service_answers_nobody_without_its_token(served: Served) -> None:
    note = json.loads((served.home / "ray.json").read_text())
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"http://127.0.0.1:{note['dashboard_port']}/api/jobs/", timeout=10)
    assert refused.value.code in (401, 403)


def test_a_source_with_a_link_out_of_the_roots_is_refused(served: Served, source: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("nobody's business")
    link = next((source / "train").glob("*/*")).with_name("link.jpg")
    link.symlink_to(tmp_path / "secret")
    job = served.submit("ingest", source=str(source), dataset=str(served.home / "data" / "ten"))
    found = served.wait_for(job, "failed")
    assert (found["exit_code"], f"{link}: a link leads from here to" in found["error"]) == (3, True)
    link.unlink()
    served.call(f"/v1/jobs/{job}/resume", {})
    assert served.wait_for(job, "succeeded")["result"]["num_samples"] == 100


def test_a_job_under_way_goes_on_when_the_next_service_starts(served: Served, source: Path) -> None:
    dataset = str(served.home / "data" / "ten")
    served.wait_for(served.submit("ingest", source=str(source), dataset=dataset), "succeeded")
    job = served.submit("train", dataset=dataset, preset="demo", epochs=3)
    wait_until(lambda: bool((served.job(job)["progress"] or {}).get("done")), JOB_S)
    assert served.end() == 0
    first = json.loads((served.home / "runs" / job / "result" / "0001.json").read_text())
    assert first["state"] == "stopped"
    served.start()
    done = served.wait_for(job, "succeeded")
    assert done["attempt"] == 2
    assert done["result"]["steps"] == 3 * 5


def test_a_service_whose_ray_dies_starts_another_and_its_jobs_go_on(served: Served, source: Path) -> None:
    dataset = str(served.home / "data" / "ten")
    served.wait_for(served.submit("ingest", source=str(source), dataset=dataset), "succeeded")
    job = served.submit("train", dataset=dataset, preset="demo", epochs=3)
    wait_until(lambda: list((served.home / "runs" / job).glob("checkpoints/*/hashes.json")) != [], JOB_S)
    first = json.loads((served.home / "ray.json").read_text())
    victim = next(p for p in ray_processes(served) if "gcs_server" in p.cmdline()[0])
    everyone = [p for r in ray_processes(served) for p in (r, *r.children(recursive=True))]
    victim.kill()
    done = served.wait_for(job, "succeeded")
    assert (done["attempt"], done["result"]["steps"]) == (2, 3 * 5)
    assert json.loads((served.home / "ray.json").read_text())["pid"] != first["pid"]
    _, alive = psutil.wait_procs(everyone, timeout=5)
    assert alive == []
    assert not Path(first["folder"]).exists()
