"""Admission: which waiting jobs may start now. Pure: figures in, decisions out.

A job starts when its CPUs, GPUs and memory are free of the jobs that were admitted before it: by priority, then
age, without overtaking, so that a large job is not starved by small ones and two trainings never wait for each
other with half their workers each.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.jobs import Job, Needs
from trainer.placing import places, widest
from trainer.settings import takes_gpus

GIB = 2**30
ACTOR_MEMORY = GIB // 4
WORKER_MEMORY = 3 * GIB // 2
DRIVER_MEMORY = GIB // 2
MAX_DRIVERS = 16
"""Drivers at once: each is a process on the cluster's head."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """What the cluster has, alive: (CPUs, GPUs) of each node, and memory in bytes altogether."""

    nodes: tuple[tuple[int, int], ...]
    memory: int

    @property
    def cpus(self) -> int:
        return sum(cpus for cpus, _ in self.nodes)

    @property
    def gpus(self) -> int:
        return sum(gpus for _, gpus in self.nodes)


@dataclass(frozen=True, slots=True)
class Applicant:
    """A waiting job."""

    id: str
    kind: str
    settings: Mapping[str, Any]
    priority: int
    created_at: float


@dataclass(frozen=True, slots=True)
class Admission:
    """`granted`: what each job that may start now gets. `never`: why a job can never start on this cluster."""

    granted: dict[str, Needs]
    never: dict[str, str]


def applicant(job: Job) -> Applicant:
    """A waiting job as it applies. One that has run before asks for the device that it was granted then: a cluster that
    comes back node by node must not make a GPU training go on without GPUs."""
    settings = job.settings
    if job.attempt and settings.get("device") == "auto":
        settings = settings | {"device": "gpu" if job.grant.gpus else "cpu"}
    return Applicant(job.id, job.kind, settings, job.priority, job.created_at)


def works_itself(kind: str, settings: Mapping[str, Any]) -> bool:
    """Whether the job's own process does the work, not actors or workers that it starts."""
    return kind in ("verify", "evaluate") or (kind == "train" and not settings.get("num_workers", 1))


def admit(
    waiting: Iterable[Applicant], held: Sequence[Needs], capacity: Capacity, max_drivers: int = MAX_DRIVERS
) -> Admission:
    """Decide about all waiting jobs at one moment. `held` are the grants of the jobs that run."""
    free = Needs(
        capacity.cpus - sum(n.cpus for n in held),
        capacity.gpus - sum(n.gpus for n in held),
        capacity.memory - sum(n.memory for n in held),
    )
    drivers = len(held)
    admission = Admission({}, {})
    blocked = False
    for job in sorted(waiting, key=lambda j: (-j.priority, j.created_at, j.id)):
        needs = needs_of(job.kind, job.settings, capacity)
        if (why := never_fits(job.kind, job.settings, needs, capacity)) is not None:
            admission.never[job.id] = why
        elif not blocked and drivers < max_drivers and _fits(needs, free):
            admission.granted[job.id] = needs
            free = Needs(free.cpus - needs.cpus, free.gpus - needs.gpus, free.memory - needs.memory)
            drivers += 1
        else:
            blocked = True
    return admission


def needs_of(kind: str, settings: Mapping[str, Any], capacity: Capacity) -> Needs:
    """What a job of these settings asks for on a cluster of this size."""
    if kind in ("ingest", "repair", "recentre"):
        return _ingest_needs(settings, capacity)
    if kind == "train" and settings.get("num_workers", 1):
        return _workers_needs(settings, capacity)
    if kind == "verify":
        return Needs(1, 0, DRIVER_MEMORY)
    use_gpu = _wants_gpus(settings, 1, capacity)
    cpus = settings.get("cpus_per_worker") or max(1, widest(capacity.nodes, 1, use_gpu))
    return Needs(cpus, int(use_gpu), DRIVER_MEMORY + WORKER_MEMORY)


def never_fits(kind: str, settings: Mapping[str, Any], needs: Needs, capacity: Capacity) -> str | None:
    """Why even the idle cluster could not hold the job, or None."""
    if needs.gpus > capacity.gpus:
        return f"It needs {needs.gpus} GPUs, the cluster has {capacity.gpus}: take fewer workers, or device cpu."
    if needs.cpus > capacity.cpus:
        return f"It needs {needs.cpus} CPUs, the cluster has {capacity.cpus}: take fewer workers, or add nodes."
    if needs.memory > capacity.memory:
        wanted, there = needs.memory / GIB, capacity.memory / GIB
        return f"It needs {wanted:.1f} GiB of memory, the cluster has {there:.1f}: take fewer workers, or add nodes."
    if works_itself(kind, settings):
        return _never_placed(1, needs.cpus, needs.gpus > 0, capacity)
    if kind == "train":
        least = settings.get("min_workers") or settings.get("num_workers", 1)
        return _never_placed(least, _cpus_of_a_worker(settings, needs.gpus > 0, capacity), needs.gpus > 0, capacity)
    return None


def _never_placed(least: int, cpus: int, use_gpu: bool, capacity: Capacity) -> str | None:
    """Why the nodes, each by itself, could not hold a job's processes, though they could together; or None."""
    held = places(capacity.nodes, cpus, use_gpu)
    if held >= least:
        return None
    return (
        f"It needs {least} times {cpus} CPUs{' and a GPU' * use_gpu}, each on one node; the nodes hold "
        f"{held or 'none'} of these: take fewer CPUs for each, fewer workers, or add nodes."
    )


def _ingest_needs(settings: Mapping[str, Any], capacity: Capacity) -> Needs:
    """As many actors as were asked for and can be had at all: a pool is content with fewer."""
    by_memory = (capacity.memory - DRIVER_MEMORY) // ACTOR_MEMORY
    actors = max(1, min(settings.get("num_actors") or capacity.cpus, capacity.cpus, by_memory))
    return Needs(actors, 0, DRIVER_MEMORY + actors * ACTOR_MEMORY)


def _workers_needs(settings: Mapping[str, Any], capacity: Capacity) -> Needs:
    workers = settings.get("num_workers", 1)
    use_gpus = _wants_gpus(settings, workers, capacity)
    cpus = _cpus_of_a_worker(settings, use_gpus, capacity)
    if least := settings.get("min_workers"):
        # An elastic run is content with what the cluster has, and never grows over its grant.
        workers = max(least, min(workers, places(capacity.nodes, cpus, use_gpus)))
    return Needs(cpus * workers, workers if use_gpus else 0, DRIVER_MEMORY + workers * WORKER_MEMORY)


def _cpus_of_a_worker(settings: Mapping[str, Any], use_gpus: bool, capacity: Capacity) -> int:
    """As asked for, or else as many as the nodes can give to each, of GPUs those that go with one."""
    workers = settings.get("num_workers", 1)
    share = capacity.cpus // capacity.gpus if use_gpus and capacity.gpus else capacity.cpus // workers
    placed = max(1, min(workers, places(capacity.nodes, 1, use_gpus)))  # of an elastic run, those that have a place now
    return settings.get("cpus_per_worker") or max(1, min(share, widest(capacity.nodes, placed, use_gpus)))


def _wants_gpus(settings: Mapping[str, Any], number: int, capacity: Capacity) -> bool:
    return takes_gpus(settings.get("device", "auto"), settings.get("min_workers") or number, capacity.gpus)


def _fits(needs: Needs, free: Needs) -> bool:
    return needs.cpus <= free.cpus and needs.gpus <= free.gpus and needs.memory <= free.memory
