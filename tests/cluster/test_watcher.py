"""The watcher, a tick at a time, over a real store and real run folders; only Ray is played, over real HTTP."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster import jobs as rules
from cluster.jobs import Job
from cluster.launcher import RayJobs
from cluster.store import Store
from cluster.watcher import Watcher
from ingest.progress import RunWriter
from ingest.storage import Place
from tests.cluster.ray_api import TOKEN, RayApi, node, ray_api
from tests.cluster.rows import new_job


class World:
    """A store, a folder of runs, a Ray that is played, and a watcher over them."""

    def __init__(self, folder: Path, api: RayApi) -> None:
        self.api, self.runs = api, folder / "runs"
        self.store = Store.open(str(folder / "store.sqlite"))
        self.ray = RayJobs(api.url, TOKEN)
        self.watcher = self.new_watcher()

    def new_watcher(self) -> Watcher:
        """A watcher that knows nothing but what is stored."""
        return Watcher(self.store, self.ray, Place(self.runs), ["/data"])

    def put(self, **chosen: Any) -> str:
        return self.store.add(new_job(**chosen))[0].id

    def job(self, job_id: str) -> Job:
        found = self.store.job(job_id)
        assert found is not None
        return found

    def tick(self, job_id: str, times: int = 1) -> Job:
        for _ in range(times):
            self.watcher.tick()
        return self.job(job_id)

    def begin(self, job_id: str, attempt: int = 1) -> RunWriter:
        """What the job's driver does first."""
        return RunWriter.begin(Place(self.runs / job_id), "verify", {}, attempt=attempt)

    def states(self, job_id: str) -> list[str]:
        return [move["state"] for move in self.store.moves(job_id)]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with ray_api(node("head", 8), node("far", 4, gpus=2), node("gone", 64, state="DEAD")) as api:
        made = World(tmp_path, api)
        yield made
        made.ray.close()
        made.store.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is waited for before a job counts as lost, or as too large."""
    monkeypatch.setattr(rules, "SETTLE_S", 0.0)
    monkeypatch.setattr(rules, "LOST_GRACE_S", 0.0)
    monkeypatch.setattr(rules, "NEVER_FITS_S", 0.0)


def test_a_job_goes_from_queued_to_succeeded(world: World) -> None:
    job = world.put()
    assert world.tick(job).state == "starting"
    submitted = world.api.jobs[f"tench-{job}-1"]
    assert world.tick(job).state == "starting"
    world.api.say(f"tench-{job}-1", "RUNNING")
    run = world.begin(job)
    assert world.tick(job).state == "running"
    run.finish("succeeded", 0, ok=True)
    done = world.tick(job)
    assert world.states(job) == ["queued", "starting", "running", "succeeded"]
    assert (done.exit_code, done.error, done.result) == (0, None, {"ok": True})
    assert submitted["entrypoint"] == "exec python -m cluster.entry"
    told = submitted["runtime_env"]["env_vars"]
    assert (told["TENCH_RUN"], told["TENCH_ATTEMPT"], told["TENCH_CPUS"]) == (f"{world.runs}/{job}", "1", "1")
    assert len(world.api.jobs) == 1


def test_settings_travel_as_a_file_with_the_roots_and_never_in_the_command(world: World) -> None:
    job = world.put(settings={"dataset": "/data/x; rm -rf ~", "deep": True})
    world.tick(job)
    asked = json.loads((world.runs / job / "request.json").read_text())
    assert (asked["kind"], asked["settings"]) == ("verify", {"dataset": "/data/x; rm -rf ~", "deep": True})
    assert asked["job"] == job
    allowed = json.loads((world.runs / job / "allowed/0001.json").read_text())
    assert allowed == {"roots": ["/data"], "web_hosts": []}
    assert "rm -rf" not in json.dumps(world.api.jobs)


def test_a_move_without_its_submit_is_made_good_once(world: World) -> None:
    job = world.put()
    world.api.broken = True
    world.store.move(world.job(job), rules.Move("starting", "It starts.", {"attempt": 1}), "watcher")
    world.tick(job)
    world.api.broken = False
    world.watcher = world.new_watcher()
    assert world.tick(job, 3).state == "starting"
    assert list(world.api.jobs) == [f"tench-{job}-1"]


def test_a_submit_that_ray_took_but_did_not_acknowledge_is_not_made_twice(world: World) -> None:
    job = world.put()

    def take_and_fail() -> None:
        world.api.jobs[f"tench-{job}-1"] = {"submission_id": f"tench-{job}-1", "status": "RUNNING"}

    world.api.before_submit = take_and_fail
    world.tick(job)
    assert world.tick(job).state == "running"
    assert len(world.api.jobs) == 1


@pytest.mark.parametrize("state", ["starting", "running", "stopping", "lost"])
def test_a_ray_that_is_in_trouble_moves_nothing(world: World, impatient: None, state: Any) -> None:
    job = world.put(state=state, attempt=1)
    if state != "starting":
        world.begin(job)
    world.api.broken = True
    assert world.tick(job, 3).state == state
    note = world.store.read_note("ray")
    assert note is not None
    assert (note[0]["reachable"], note[0]["nodes"]) == (False, [])
    assert "HTTP 500" in note[0]["error"]


def test_a_queued_job_waits_for_ray_but_is_stopped_without_it(world: World) -> None:
    waiting, unwanted = world.put(), world.put()
    world.api.broken = True
    world.store.wish(world.job(unwanted), by="ada", stop=True)
    assert world.tick(waiting, 2).state == "queued"
    assert world.job(unwanted).state == "stopped"
    world.api.broken = False
    assert world.tick(waiting).state == "starting"


def test_a_dead_process_is_lost_with_its_last_words_and_tried_again_up_to_the_limit(
    world: World, impatient: None
) -> None:
    job = world.put()
    for attempt in (1, 2, 3):
        world.tick(job)
        name = f"tench-{job}-{attempt}"
        world.begin(job, attempt)
        world.api.say(name, "RUNNING")
        assert world.tick(job).state == "running"
        world.api.logs[name] = f"line\nKilled {attempt}"
        world.api.say(name, "FAILED")
        lost = world.tick(job)
        assert (lost.state, f"Killed {attempt}" in str(lost.error)) == ("lost", True)
        world.tick(job)
    failed = world.job(job)
    assert (failed.state, failed.exit_code, failed.attempt) == ("failed", 1, 3)
    assert ("Killed 3" in str(failed.error), "attempt 3 of at most 3" in str(failed.error)) == (True, True)
    assert len(world.api.jobs) == 3


def test_a_stop_reaches_the_driver_as_a_file_and_a_process_that_never_began_by_ray(world: World) -> None:
    begun, unborn = world.put(), world.put()
    world.tick(begun)
    run = world.begin(begun)
    world.api.say(f"tench-{begun}-1", "RUNNING")
    world.tick(begun)
    for job in (begun, unborn):
        world.store.wish(world.job(job), by="ada", stop=True)
    assert world.tick(begun, 2).state == world.job(unborn).state == "stopping"
    assert (world.runs / begun / "stop/0001.json").exists()
    assert set(world.api.stops) == {f"tench-{unborn}-1"}
    assert run.stop_requested()
    run.finish("stopped", 130, "Stopped.")
    assert world.tick(begun).state == "stopped"
    assert world.states(begun) == ["queued", "starting", "running", "stopping", "stopped"]


def test_a_stop_reaches_a_driver_while_ray_is_out_of_reach(world: World) -> None:
    job = world.put(state="running", attempt=1)
    run = world.begin(job)
    world.api.broken = True
    world.store.wish(world.job(job), by="ada", stop=True)
    assert world.tick(job, 2).state == "stopping"
    assert run.stop_requested()
    run.finish("stopped", 130, "Stopped.")
    assert world.tick(job).state == "stopped"


def test_a_child_starts_when_its_parent_has_succeeded_and_not_before(world: World) -> None:
    parent = world.put()
    child = world.put(after=parent, priority=100)
    orphan = world.put(after="no-such-job")
    assert world.tick(child).state == "queued"
    assert (world.job(orphan).state, world.job(orphan).exit_code) == ("failed", 3)
    world.begin(parent).finish("succeeded", 0)
    world.tick(child, 2)
    assert (world.job(parent).state, world.tick(child).state) == ("succeeded", "starting")


def test_jobs_share_what_living_nodes_have_in_their_turn(world: World, impatient: None) -> None:
    def training(workers: int) -> dict[str, Any]:
        return {"num_workers": workers, "device": "cpu", "cpus_per_worker": 1}

    first, large, small = (world.put(kind="train", settings=training(n)) for n in (7, 6, 1))
    never = world.put(kind="train", settings=training(40))
    world.tick(first, 2)
    assert [world.job(j).state for j in (first, large, small)] == ["starting", "queued", "queued"]
    assert "has 12" in str(world.job(never).error)
    world.begin(first).finish("succeeded", 0)
    world.tick(first, 2)
    world.tick(first)
    assert [world.job(j).state for j in (first, large, small)] == ["succeeded", "starting", "starting"]


def test_an_end_of_the_service_asks_every_driver_to_stop_and_their_jobs_go_on_later(world: World) -> None:
    job = world.put()
    world.tick(job)
    run = world.begin(job)
    world.tick(job)
    world.watcher.interrupt(0)
    assert run.stop_requested()
    run.finish("stopped", 130, "Stopped on request.")
    world.api.jobs.clear()  # the next service has a Ray of its own
    assert world.tick(job, 3).state == "starting"
    assert world.api.submits == [f"tench-{job}-1", f"tench-{job}-2"]


def test_a_child_that_comes_right_after_its_parents_resume_waits_for_it(world: World) -> None:
    parent = world.put()
    world.tick(parent)
    world.begin(parent).finish("failed", 1, "a full disk")
    assert world.tick(parent, 2).state == "failed"
    world.store.wish(world.job(parent), by="ada", resume=True)
    child = world.put(after=parent)
    assert (world.tick(child).state, world.job(parent).state) == ("queued", "queued")
    assert world.tick(child).state == "queued"


def test_a_child_waits_through_its_parents_attempts(world: World, impatient: None) -> None:
    parent = world.put()
    child = world.put(after=parent)
    grandchild = world.put(after=child)
    world.tick(parent)
    world.begin(parent)
    world.api.say(f"tench-{parent}-1", "FAILED")
    assert world.tick(parent, 4).attempt == 2
    assert "lost" in world.states(parent)
    world.begin(parent, 2).finish("succeeded", 0)
    assert world.tick(parent, 3).state == "succeeded"
    assert world.states(child) == ["queued", "starting"] == [*world.states(grandchild), "starting"]


@pytest.mark.parametrize(("ended", "code"), [("failed", 1), ("stopped", 130)])
def test_a_parent_that_does_not_succeed_takes_its_descendants_along_until_they_are_resumed(
    world: World, ended: Any, code: int
) -> None:
    parent = world.put()
    child = world.put(after=parent)
    grandchild = world.put(after=child)
    world.tick(parent)
    run = world.begin(parent)
    world.tick(parent)
    if ended == "stopped":
        world.store.wish(world.job(parent), by="ada", stop=True)
    run.finish(ended, code, "no space left")
    assert world.tick(grandchild, 5).state == world.job(child).state == world.job(parent).state == ended
    assert parent in str(world.job(child).error)
    for job in (parent, child):
        world.store.wish(world.job(job), by="ada", resume=True)
    assert (world.tick(child).state, world.tick(parent).state) == ("queued", "starting")
    world.begin(parent, 2).finish("succeeded", 0)
    assert world.tick(child, 4).state == "starting"


def test_a_child_that_works_on_what_its_parent_made_is_pinned_to_that_dataset(world: World) -> None:
    parent = world.put(settings={"dataset": "/data/d"})
    child, other = (world.put(after=parent, settings={"dataset": f"/data/{name}"}) for name in ("d", "e"))
    world.tick(parent)
    world.begin(parent).finish("succeeded", 0, dataset="/data/d", dataset_id="a" * 64)
    world.tick(child, 4)
    pinned = [json.loads((world.runs / job / "request.json").read_text())["pinned"] for job in (child, other)]
    assert pinned == [{"dataset_id": "a" * 64, "by": parent}, None]


def test_a_resumed_job_is_the_next_attempt_in_the_same_folder_with_the_same_request(world: World) -> None:
    job = world.put()
    world.tick(job)
    world.begin(job).finish("failed", 5, "too many bad pictures")
    assert world.tick(job, 2).state == "failed"
    asked = (world.runs / job / "request.json").read_bytes()
    world.store.wish(world.job(job), by="ada", resume=True)
    again = world.tick(job, 3)
    assert (again.state, again.attempt, again.error, again.max_attempts) == ("starting", 2, None, 3)
    world.begin(job, 2).finish("succeeded", 0)
    assert world.tick(job, 2).state == "succeeded"
    assert (world.runs / job / "request.json").read_bytes() == asked
    assert sorted(path.name for path in world.runs.iterdir()) == [job]


def test_fifty_small_jobs_do_not_exhaust_the_head_and_all_get_their_turn(world: World) -> None:
    world.api.nodes[:] = [node("head", 64)]
    jobs = [world.put() for _ in range(50)]
    most = 0
    while any(not job.has_ended for job in world.store.jobs(50)):
        world.watcher.tick()
        at_work = [job for job in world.store.jobs(50) if job.state in ("starting", "running")]
        most = max(most, len(at_work))
        for job in at_work:
            if job.state == "starting":
                world.begin(job.id).finish("succeeded", 0)
    assert most == 16
    assert {job.state for job in world.store.jobs(50)} == {"succeeded"}
    assert [name.rsplit("-", 1)[0].removeprefix("tench-") for name in world.api.jobs] == jobs


def test_a_job_whose_record_cannot_be_read_does_not_hold_up_the_others(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    bad, good = world.put(), world.put()
    world.tick(good)
    for job in (bad, good):
        world.begin(job).finish("succeeded", 0)
    (world.runs / bad / "result/0001.json").write_text("{half")
    assert world.tick(good, 2).state == "succeeded"
    assert world.job(bad).state == "starting"
    assert f"job {bad}" in capsys.readouterr().out


def test_a_job_waits_for_nodes_that_are_away_for_a_moment(world: World) -> None:
    everything = list(world.api.nodes)
    job = world.put(kind="train", settings={"num_workers": 2, "device": "gpu", "cpus_per_worker": 1})
    world.api.nodes[:] = everything[:1]
    assert world.tick(job, 3).state == "queued"
    world.api.nodes[:] = everything
    assert world.tick(job).state == "starting"


def test_a_job_in_the_queue_is_stopped_while_it_waits_for_its_parent(world: World) -> None:
    parent = world.put()
    child = world.put(after=parent)
    world.tick(parent)
    world.store.wish(world.job(child), by="ada", stop=True)
    assert (world.tick(child).state, world.job(parent).state) == ("stopped", "starting")
