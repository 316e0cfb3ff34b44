"""Ray's job interface as it is called: once for each id, with the token, and every strangeness a Ray out of reach."""

from collections.abc import Iterator

import pytest

from cluster.jobs import Needs
from cluster.launcher import RayJobs, RayUnreachable
from tests.cluster.ray_api import TOKEN, RayApi, node, ray_api


@pytest.fixture
def api() -> Iterator[RayApi]:
    with ray_api(node("head", 8), node("far", 4, gpus=2), node("gone", 64, state="DEAD")) as played:
        yield played


@pytest.fixture
def ray(api: RayApi) -> Iterator[RayJobs]:
    jobs = RayJobs(api.url, TOKEN)
    yield jobs
    jobs.close()


def test_submitting_an_id_twice_starts_it_once(api: RayApi, ray: RayJobs) -> None:
    ray.submit("tench-a-1", {})
    ray.submit("tench-a-1", {})
    assert api.submits == ["tench-a-1"]


def test_a_submit_that_another_has_just_made_is_no_error(api: RayApi, ray: RayJobs) -> None:
    def take_it_before() -> None:
        api.jobs["tench-b-1"] = {"submission_id": "tench-b-1", "status": "PENDING"}

    api.before_submit = take_it_before
    ray.submit("tench-b-1", {})
    assert ray.state("tench-b-1") == "PENDING"


def test_living_nodes_are_counted_and_dead_ones_are_not(ray: RayJobs) -> None:
    found = ray.nodes()
    assert [(n["name"], n["cpus"], n["gpus"], n["is_head"]) for n in found.nodes] == [
        ("head", 8, 0, True), ("far", 4, 2, False),
    ]  # fmt: skip
    assert (found.capacity.cpus, found.capacity.gpus) == (12, 2)


def test_jobs_at_work_are_told_from_those_that_ended_and_those_unknown(api: RayApi, ray: RayJobs) -> None:
    for name, status in (("a", "PENDING"), ("b", "RUNNING"), ("c", "SUCCEEDED"), ("d", "FAILED"), ("e", "STOPPED")):
        api.jobs[name] = {"submission_id": name, "status": status}
    assert ray.running() == ["a", "b"]
    assert (ray.state("e"), ray.state("nobody")) == ("STOPPED", None)
    api.logs["d"] = "last words"
    assert (ray.logs("d"), ray.logs("nobody")) == ("last words", "")


def test_a_wrong_token_is_a_ray_out_of_reach(api: RayApi, ray: RayJobs) -> None:
    stranger = RayJobs(api.url, "another token")
    with pytest.raises(RayUnreachable, match="refuses the token"):
        stranger.nodes()
    stranger.close()
    assert ray.demands_token()
    api.demands_token = False
    assert not ray.demands_token()


def test_a_ray_that_comes_back_open_is_out_of_reach_unless_that_is_allowed(api: RayApi, ray: RayJobs) -> None:
    assert ray.nodes().nodes
    api.demands_token = False
    assert ray.nodes().nodes  # the same Ray, which was looked at
    api.broken = True
    with pytest.raises(RayUnreachable):
        ray.nodes()
    api.broken = False
    ray.move_to(api.url, TOKEN)
    with pytest.raises(RayUnreachable, match="answers without a token"):
        ray.nodes()
    allowed = RayJobs(api.url, TOKEN, may_be_open=True)
    assert allowed.nodes().nodes
    allowed.close()


def test_a_process_that_works_itself_gets_a_node_with_what_it_was_granted(api: RayApi, ray: RayJobs) -> None:
    ray.submit("works", {}, Needs(3, 1, 2**30))
    ray.submit("waits", {})
    assert (api.jobs["works"]["entrypoint_num_cpus"], api.jobs["works"]["entrypoint_num_gpus"]) == (3, 1)
    assert "entrypoint_num_cpus" not in api.jobs["waits"]


def test_a_ray_that_fails_or_is_not_there_is_out_of_reach_and_not_a_ray_without_jobs(api: RayApi, no_ray: str) -> None:
    api.broken = True
    for url in (api.url, no_ray):
        ray = RayJobs(url, TOKEN)
        for ask in (ray.nodes, ray.running, lambda ray=ray: ray.state("a"), lambda ray=ray: ray.submit("a", {})):
            with pytest.raises(RayUnreachable, match=url):
                ask()
        ray.close()
