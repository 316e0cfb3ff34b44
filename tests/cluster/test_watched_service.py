"""`tench serve` beside a Ray that is played over HTTP: what a person sees while jobs run, and after a kill."""

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from ingest.progress import RunWriter
from ingest.storage import Place
from tests.cluster.ray_api import TOKEN, RayApi, node, ray_api
from tests.cluster.served import Served, serving
from tests.cluster.test_cli_service import refused, tench


@pytest.fixture
def api() -> Iterator[RayApi]:
    with ray_api(node("head", 4, gpus=1)) as played:
        yield played


@pytest.fixture
def with_ray(api: RayApi, tmp_path: Path) -> Iterator[Served]:
    with serving(tmp_path, api.url, ray_token=TOKEN) as service:
        yield service


def begin(served: Served, job: str) -> RunWriter:
    """What the job's driver does first."""
    return RunWriter.begin(Place(served.home / "runs" / job), "verify", {}, attempt=1)


def test_a_job_is_seen_from_queued_to_succeeded(with_ray: Served, api: RayApi) -> None:
    job = with_ray.submit()["id"]
    with_ray.job_once(job, "starting")
    run = begin(with_ray, job)
    run.progress("verifying", 3, 12, "files", force=True)
    api.say(f"tench-{job}-1", "RUNNING")
    api.logs[f"tench-{job}-1"] = "a line of its log\n"
    running = with_ray.job_once(job, "running")
    assert (running["unknown"], running["progress"]["done"], running["attempt"]) == (False, 3, 1)
    assert with_ray.get(f"/v1/jobs/{job}/logs").body == b"a line of its log\n"
    cluster = with_ray.get("/v1/cluster").json()
    assert (cluster["reachable"], cluster["cpus"], cluster["gpus"], cluster["used_cpus"]) == (True, 4, 1, 1)
    assert [n["name"] for n in cluster["nodes"]] == ["head"]
    assert with_ray.get("/readyz").status == 200
    run.finish("succeeded", 0, ok=True)
    done = with_ray.job_once(job, "succeeded")
    assert (done["result"], done["exit_code"], done["has_ended"]) == ({"ok": True}, 0, True)
    assert with_ray.get("/v1/cluster").json()["used_cpus"] == 0


def test_a_ray_out_of_reach_is_shown_as_unknown_and_moves_nothing(with_ray: Served, api: RayApi) -> None:
    job = with_ray.submit()["id"]
    with_ray.job_once(job, "starting")
    begin(with_ray, job)
    api.say(f"tench-{job}-1", "RUNNING")
    with_ray.job_once(job, "running")
    waiting = with_ray.submit(settings={"dataset": f"{with_ray.root}/e"})["id"]
    with_ray.job_once(waiting, "starting")
    api.broken = True
    shown = with_ray.eventually(f"/v1/jobs/{job}", lambda found: found if found["unknown"] else None)
    queued = with_ray.submit()
    assert (shown["state"], queued["state"], queued["unknown"]) == ("running", "queued", False)
    assert with_ray.get("/readyz").json() == {"store": True, "watcher": True, "ray": False}
    assert "tench_ray_reachable 0" in with_ray.get("/metrics").body.decode()
    api.broken = False
    again = with_ray.eventually(f"/v1/jobs/{job}", lambda found: None if found["unknown"] else found)
    assert again["state"] == "running"
    with_ray.job_once(queued["id"], "starting")


def test_a_dry_run_says_what_a_job_needs_of_this_cluster(with_ray: Served, tiny_dataset: str) -> None:
    shutil.copytree(tiny_dataset, with_ray.root / "d")
    body = {"kind": "verify", "settings": {"dataset": f"{with_ray.root}/d"}}
    facts = with_ray.ask("POST", "/v1/jobs?dry_run=true", body).json()
    assert (facts["needs"]["cpus"], facts["needs"]["gpus"], facts["never"]) == (1, 0, None)
    assert facts["splits"] == {"train": 60, "val": 30}
    train = {"kind": "train", "settings": {"dataset": f"{with_ray.root}/d", "num_workers": 3, "device": "gpu"}}
    assert "needs 3 GPUs, the cluster has 1" in with_ray.ask("POST", "/v1/jobs?dry_run=true", train).json()["never"]


@pytest.mark.parametrize("taken", [False, True])
def test_a_service_killed_between_move_and_submit_makes_it_good(api: RayApi, tmp_path: Path, taken: bool) -> None:
    with serving(tmp_path, api.url, ray_token=TOKEN) as service:

        def kill() -> None:
            service.process.kill()
            if not taken:
                raise ConnectionAbortedError

        api.before_submit = kill
        job = service.submit()["id"]
        assert service.process.wait(30) == -signal.SIGKILL
    api.before_submit = lambda: None
    with serving(tmp_path, api.url, ray_token=TOKEN) as service:
        api.wait_for(f"tench-{job}-1")
        assert service.get(f"/v1/jobs/{job}").json()["state"] == "starting"
        begin(service, job).finish("succeeded", 0)
        assert service.job_once(job, "succeeded")["attempt"] == 1
    assert api.submits == [f"tench-{job}-1"] * (1 if taken else 2)
    assert list(api.jobs) == [f"tench-{job}-1"]


def test_a_ray_that_answers_anyone_is_refused_unless_it_is_allowed(api: RayApi, tmp_path: Path) -> None:
    api.demands_token = False
    flags = ("serve", "--port", "0", "--home", str(tmp_path), "--ray-address", api.url)
    refused(tench(*flags), api.url, "without a token", "RAY_AUTH_MODE=token", "--allow-open-ray")
    with serving(tmp_path, api.url, "--allow-open-ray") as service:
        assert service.get("/readyz").status == 200
