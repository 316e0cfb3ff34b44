"""Admission: no more than there is, by priority and age, nobody overtaken, and what can never fit says so."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.jobs import Job, Needs
from cluster.ledger import Applicant, Capacity, admit, applicant, needs_of

GIB = 2**30
EMPTY = Capacity(((8, 2),), 64 * GIB)

capacities = st.builds(
    Capacity, memory=st.integers(0, 128).map(lambda g: g * GIB),
    nodes=st.lists(st.tuples(st.integers(0, 16), st.integers(0, 4)), min_size=1, max_size=5).map(tuple),
)  # fmt: skip
settings_of_kinds: st.SearchStrategy[tuple[str, dict[str, Any]]] = st.one_of(
    st.tuples(st.just("ingest"), st.fixed_dictionaries({"num_actors": st.none() | st.integers(1, 100)})),
    st.tuples(st.just("verify"), st.just({})),
    st.tuples(
        st.just("train"),
        st.fixed_dictionaries(
            {"num_workers": st.integers(0, 12), "device": st.sampled_from(["auto", "cpu", "gpu"]),
             "cpus_per_worker": st.none() | st.integers(1, 16)}
        ),
    ),
    st.tuples(st.just("evaluate"), st.fixed_dictionaries({"device": st.sampled_from(["auto", "cpu", "gpu"])})),
)  # fmt: skip
queues = st.lists(st.tuples(settings_of_kinds, st.integers(-2, 2), st.integers(0, 3)), max_size=12).map(
    lambda rows: [
        Applicant(f"job-{n:02d}", kind, settings, priority, float(age))
        for n, ((kind, settings), priority, age) in enumerate(rows)
    ]
)
held_grants = st.lists(st.builds(Needs, st.integers(0, 8), st.integers(0, 2), st.integers(0, 8 * GIB)), max_size=5)


def worker(name: str, workers: int, priority: int = 0, created_at: float = 0.0, **settings: Any) -> Applicant:
    """A training that asks for this many workers with one CPU each."""
    settings = {"num_workers": workers, "device": "cpu", "cpus_per_worker": 1, **settings}
    return Applicant(name, "train", settings, priority, created_at)


def turn(job: Applicant) -> tuple[int, float, str]:
    return (-job.priority, job.created_at, job.id)


@given(queues, held_grants, capacities)
def test_grants_never_exceed_what_there_is(waiting: list[Applicant], held: list[Needs], capacity: Capacity) -> None:
    granted = admit(waiting, held, capacity).granted
    if granted:
        together = [*held, *granted.values()]
        assert sum(n.cpus for n in together) <= capacity.cpus
        assert sum(n.gpus for n in together) <= capacity.gpus
        assert sum(n.memory for n in together) <= capacity.memory
    assert all(n.cpus >= 1 for n in granted.values())


@given(queues, held_grants, capacities, st.integers(1, 6))
def test_nobody_overtakes_and_nobody_waits_for_nothing(
    waiting: list[Applicant], held: list[Needs], capacity: Capacity, max_drivers: int
) -> None:
    admission = admit(waiting, held, capacity, max_drivers)
    queue = sorted((j for j in waiting if j.id not in admission.never), key=turn)
    names = [j.id for j in queue]
    assert sorted(admission.granted) == sorted(names[: len(admission.granted)])
    assert len(held) + len(admission.granted) <= max(max_drivers, len(held))
    if len(admission.granted) < len(queue) and len(held) + len(admission.granted) < max_drivers:
        first = queue[len(admission.granted)]
        wants = needs_of(first.kind, first.settings, capacity)
        together = [*held, *admission.granted.values(), wants]
        assert (
            sum(n.cpus for n in together) > capacity.cpus
            or sum(n.gpus for n in together) > capacity.gpus
            or sum(n.memory for n in together) > capacity.memory
        )


@given(queues, held_grants, capacities)
def test_what_never_fits_depends_on_the_cluster_alone(
    waiting: list[Applicant], held: list[Needs], capacity: Capacity
) -> None:
    busy = admit(waiting, held, capacity).never
    assert busy == {j.id: why for j in waiting for why in admit([j], [], capacity).never.values()}
    assert all(j.id in busy or admit([j], [], capacity).granted for j in waiting)


def test_priority_goes_first_then_age() -> None:
    waiting = [worker("young", 3, 0, 9.0), worker("urgent", 3, 5, 9.5), worker("old", 3, 0, 1.0)]
    assert list(admit(waiting, [], EMPTY).granted) == ["urgent", "old"]


def test_a_large_job_at_the_head_of_the_queue_is_not_starved_by_small_ones() -> None:
    waiting = [worker("large", 8, created_at=1.0), worker("small", 1, created_at=2.0)]
    assert admit(waiting, [Needs(1, 0, GIB)], EMPTY).granted == {}
    assert list(admit(waiting, [], EMPTY).granted) == ["large"]


def test_two_trainings_that_fit_only_one_by_one_start_one_by_one() -> None:
    waiting = [worker("first", 5, created_at=1.0), worker("second", 5, created_at=2.0)]
    granted = admit(waiting, [], EMPTY).granted
    assert {name: n.cpus for name, n in granted.items()} == {"first": 5}
    assert admit(waiting[1:], list(granted.values()), EMPTY).granted == {}


def test_a_job_that_can_never_fit_does_not_hold_up_the_others() -> None:
    admission = admit([worker("huge", 99, priority=100), worker("small", 1)], [], EMPTY)
    assert list(admission.granted) == ["small"]
    assert list(admission.never) == ["huge"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"workers": 9}, ["needs 9 CPUs", "has 8", "fewer workers"]),
        ({"workers": 3, "device": "gpu"}, ["needs 3 GPUs", "has 2", "device cpu"]),
        ({"workers": 3, "device": "gpu", "cpus_per_worker": None}, ["needs 3 GPUs", "has 2", "device cpu"]),
        ({"workers": 8, "memory": 4}, ["needs 12.5 GiB", "has 4.0", "fewer workers"]),
    ],
)
def test_why_a_job_never_fits_is_said_in_numbers_with_a_way_out(settings: dict[str, Any], said: list[str]) -> None:
    capacity = Capacity(((8, 2),), settings.pop("memory", 64) * GIB)
    why = admit([worker("j", settings.pop("workers"), **settings)], [], capacity).never["j"]
    assert all(words in why for words in said), why


@pytest.mark.parametrize(("asked", "gets"), [(None, 8), (3, 3), (500, 8)])
def test_an_ingest_pool_is_content_with_what_the_cluster_has(asked: int | None, gets: int) -> None:
    job = Applicant("i", "ingest", {"num_actors": asked}, 0, 0.0)
    assert admit([job], [], EMPTY).granted["i"].cpus == gets
    assert admit([job], [], Capacity(((8, 0),), GIB)).granted["i"].cpus == min(gets, 2)


@pytest.mark.parametrize(
    ("settings", "cpus", "gpus"),
    [
        ({"num_workers": 2, "device": "auto"}, 8, 2),
        ({"num_workers": 3, "device": "auto"}, 6, 0),
        ({"num_workers": 1, "device": "gpu"}, 4, 1),
        ({"num_workers": 2, "device": "cpu", "cpus_per_worker": 3}, 6, 0),
        ({"num_workers": 0, "device": "cpu"}, 8, 0),
    ],
)
def test_a_training_shares_the_cpus_out_to_its_workers(settings: dict[str, Any], cpus: int, gpus: int) -> None:
    needs = needs_of("train", settings, EMPTY)
    assert (needs.cpus, needs.gpus) == (cpus, gpus)


def test_the_number_of_drivers_is_limited() -> None:
    waiting = [Applicant(f"v{n:02d}", "verify", {}, 0, float(n)) for n in range(40)]
    large = Capacity(((8, 0),) * 125, 1000 * GIB)
    assert len(admit(waiting, [], large).granted) == 16
    assert len(admit(waiting, [Needs(1)] * 14, large).granted) == 2


def test_an_elastic_training_asks_for_what_the_cluster_has_but_not_for_less_than_its_least() -> None:
    def cpus(workers: int, least: int | None) -> int:
        settings = {"num_workers": workers, "min_workers": least, "device": "cpu", "cpus_per_worker": 3}
        return needs_of("train", settings, EMPTY).cpus

    assert [cpus(4, None), cpus(4, 1), cpus(2, 1), cpus(1, 1), cpus(4, 3)] == [12, 6, 6, 3, 9]


FOUR_OF_FOUR = Capacity(((4, 0),) * 4, 64 * GIB)
ONE_WITH_GPUS = Capacity(((16, 4), (4, 0), (4, 0)), 64 * GIB)


@pytest.mark.parametrize(
    ("kind", "settings", "capacity", "said"),
    [
        ("evaluate", {"cpus_per_worker": 6}, FOUR_OF_FOUR, "It needs 1 times 6 CPUs, each on one node; the nodes hold none"),
        ("train", {"num_workers": 0, "cpus_per_worker": 6}, FOUR_OF_FOUR, "1 times 6 CPUs"),
        ("train", {"num_workers": 2, "cpus_per_worker": 6}, FOUR_OF_FOUR, "2 times 6 CPUs"),
        ("train", {"num_workers": 5, "cpus_per_worker": 3}, FOUR_OF_FOUR, "5 times 3 CPUs, each on one node; the nodes hold 4"),
        ("train", {"num_workers": 5, "min_workers": 5, "cpus_per_worker": 3}, FOUR_OF_FOUR, "5 times 3 CPUs"),
        (
            "train", {"num_workers": 4, "cpus_per_worker": 6, "device": "gpu"}, ONE_WITH_GPUS,
            "4 times 6 CPUs and a GPU, each on one node; the nodes hold 2",
        ),
    ],
)  # fmt: skip
def test_what_no_node_can_hold_never_starts(kind: str, settings: dict[str, Any], capacity: Capacity, said: str) -> None:
    never = admit([Applicant("a", kind, settings, 0, 0.0)], [], capacity).never
    assert said in never["a"]


@pytest.mark.parametrize(
    ("settings", "capacity", "cpus"),
    [
        ({"num_workers": 4}, FOUR_OF_FOUR, 16),
        ({"num_workers": 5}, FOUR_OF_FOUR, 10),  # two of two on one node
        ({"num_workers": 4}, Capacity(((4, 0),) * 3, 64 * GIB), 8),
        ({"num_workers": 4, "device": "gpu"}, ONE_WITH_GPUS, 16),
        ({"num_workers": 5, "min_workers": 2, "cpus_per_worker": 3}, FOUR_OF_FOUR, 12),
        ({"num_workers": 8, "min_workers": 2, "device": "gpu"}, ONE_WITH_GPUS, 16),
        ({"num_workers": 32, "min_workers": 2}, FOUR_OF_FOUR, 16),
    ],
)
def test_workers_get_as_many_cpus_as_the_nodes_can_give_to_all_of_them(
    settings: dict[str, Any], capacity: Capacity, cpus: int
) -> None:
    admission = admit([Applicant("a", "train", settings, 0, 0.0)], [], capacity)
    assert admission.granted["a"].cpus == cpus


def test_an_elastic_training_takes_gpus_if_there_is_one_for_each_of_its_least() -> None:
    settings = {"num_workers": 8, "min_workers": 2, "device": "auto"}
    assert needs_of("train", settings, Capacity(((8, 2),) * 2, 64 * GIB)).gpus == 4
    assert needs_of("train", settings, Capacity(((8, 1), (8, 0)), 64 * GIB)).gpus == 0


@pytest.mark.parametrize(("gpus", "device"), [(2, "gpu"), (0, "cpu")])
def test_a_job_that_ran_before_waits_for_the_device_that_it_had(gpus: int, device: str) -> None:
    row = Job(
        "a", "train", "", "queued", {"num_workers": 2, "device": "auto"}, None, 0, "local", 0.0, 0.0,
        attempt=1, grant=Needs(4, gpus, GIB),
    )  # fmt: skip
    assert applicant(row).settings["device"] == device
    came_back_without_gpus = Capacity(((8, 0),), 64 * GIB)
    assert ("a" in admit([applicant(row)], [], came_back_without_gpus).never) == (device == "gpu")
