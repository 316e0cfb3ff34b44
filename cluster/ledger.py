"""Admission: which waiting jobs may start now. Pure: figures in, decisions out.

A job starts when its CPUs, GPUs and memory are free of the jobs that were admitted before it: by priority, then
age, without overtaking, so that a large job is not starved by small ones and two trainings never wait for each
other with half their workers each.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.jobs import Job, Needs
from trainer.settings import takes_gpus

GIB = 2**30
ACTOR_MEMORY = GIB // 4
WORKER_MEMORY = 3 * GIB // 2
DRIVER_MEMORY = GIB // 2
MAX_DRIVERS = 16
"""Drivers at once: each is a process on the cluster's head."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """What the cluster has, alive, altogether; and the CPUs of its largest node."""

    cpus: int
    gpus: int
    memory: int
    node_cpus: int


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
    cpus = settings.get("cpus_per_worker") or max(1, capacity.node_cpus)
    return Needs(cpus, int(_wants_gpus(settings, 1, capacity)), DRIVER_MEMORY + WORKER_MEMORY)


def never_fits(kind: str, settings: Mapping[str, Any], needs: Needs, capacity: Capacity) -> str | None:
    """Why even the idle cluster could not hold the job, or None."""
    if works_itself(kind, settings) and needs.cpus > capacity.node_cpus:
        return f"It needs {needs.cpus} CPUs in one place, the largest node has {capacity.node_cpus}."
    if needs.gpus > capacity.gpus:
        return f"It needs {needs.gpus} GPUs, the cluster has {capacity.gpus}: take fewer workers, or device cpu."
    if needs.cpus > capacity.cpus:
        return f"It needs {needs.cpus} CPUs, the cluster has {capacity.cpus}: take fewer workers, or add nodes."
    if needs.memory > capacity.memory:
        wanted, there = needs.memory / GIB, capacity.memory / GIB
        return f"It needs {wanted:.1f} GiB of memory, the cluster has {there:.1f}: take fewer workers, or add nodes."
    return None


def _ingest_needs(settings: Mapping[str, Any], capacity: Capacity) -> Needs:
    """As many actors as were asked for and can be had at all: a pool is content with fewer."""
    by_memory = (capacity.memory - DRIVER_MEMORY) // ACTOR_MEMORY
    actors = max(1, min(settings.get("num_actors") or capacity.cpus, capacity.cpus, by_memory))
    return Needs(actors, 0, DRIVER_MEMORY + actors * ACTOR_MEMORY)


def _workers_needs(settings: Mapping[str, Any], capacity: Capacity) -> Needs:
    workers = settings.get("num_workers", 1)
    use_gpus = _wants_gpus(settings, workers, capacity)
    share = capacity.cpus // capacity.gpus if use_gpus and capacity.gpus else capacity.cpus // workers
    cpus = settings.get("cpus_per_worker") or max(1, min(share, capacity.node_cpus))
    if least := settings.get("min_workers"):
        # An elastic run is content with what the cluster has, and never grows over its grant.
        workers = max(least, min(workers, capacity.cpus // cpus, capacity.gpus if use_gpus else workers))
    return Needs(cpus * workers, workers if use_gpus else 0, DRIVER_MEMORY + workers * WORKER_MEMORY)


def _wants_gpus(settings: Mapping[str, Any], number: int, capacity: Capacity) -> bool:
    return takes_gpus(settings.get("device", "auto"), settings.get("min_workers") or number, capacity.gpus)


def _fits(needs: Needs, free: Needs) -> bool:
    return needs.cpus <= free.cpus and needs.gpus <= free.gpus and needs.memory <= free.memory
