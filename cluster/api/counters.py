"""What Prometheus scrapes: requests as they are answered, and the jobs, runs and nodes as they are at the scrape.

Everything is read from what the page reads: the store, the run folders of the jobs at work, the watcher's note of Ray.
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import Message, Scope, Send

from cluster.api.service import Service
from cluster.jobs import ADMITTED, STATES
from cluster.settings import KINDS

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH")
Figures = Mapping[str, tuple[str, str]]
"""By the last part of a metric's name: (field or figure that it shows, its words)."""
JOB_FIGURES: Figures = {
    "done": ("done", "What a job at work has done in its phase, in its unit."),
    "total": ("total", "What there is to do in the phase."),
    "rate": ("rate", "Units a second over the last seconds."),
    "seconds_left": ("seconds_left", "Seconds until the phase ends at this rate."),
}
TRAINING_FIGURES: Figures = {
    "samples_per_second": ("samples_per_s", "Samples a second of a training at work."),
    "loss": ("loss", "Loss of a training at work, mean since the report before."),
    "batch_top1_error": ("train_top1_error", "Top-1 error of a training at work on its own batches, 0 to 1."),
    "top1_error": ("top1_error", "Top-1 error at the last evaluation of a training at work, 0 to 1."),
    "top5_error": ("top5_error", "Top-5 error at the last evaluation of a training at work, 0 to 1."),
    "data_wait_share": ("data_wait_share", "Share of its time that a training at work waits for data, 0 to 1."),
    "learning_rate": ("learning_rate", "Learning rate of a training at work."),
    "epoch": ("epoch", "Epoch of a training at work, from 1."),
}
INGEST_FIGURES: Figures = {
    "samples": ("samples", "Samples that an ingest at work has written."),
    "bytes": ("bytes", "Bytes of shards that an ingest at work has written."),
    "bad_pictures": ("quarantined", "Pictures that an ingest at work has set aside."),
    "actors": ("num_actors", "Actors of an ingest at work that have finished a shard."),
}
NODE_FIGURES: Figures = {
    "cpus": ("cpus", "CPUs of a node that Ray may give away."),
    "gpus": ("gpus", "GPUs of a node that Ray may give away."),
    "cpu_share": ("cpu_share", "Share of a node's CPUs at work, 0 to 1."),
    "memory_used_bytes": ("host_memory_used_bytes", "Memory in use on a node."),
    "memory_bytes": ("host_memory_bytes", "Memory of a node."),
}
GPU_FIGURES: Figures = {
    "utilisation": ("utilisation", "Share of the last second in which a GPU was at work, 0 to 1."),
    "memory_used_bytes": ("memory_used_bytes", "Memory in use on a GPU."),
    "memory_bytes": ("memory_bytes", "Memory of a GPU."),
}
Sample = tuple[tuple[str, ...], float]


class Requests:
    """Counts requests by route and status, and times them until their answer begins."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._count = Counter("tench_requests", "Requests answered.", ("method", "route", "status"), registry=registry)
        self._seconds = Histogram(
            "tench_request_seconds", "Seconds until the answer begins.", ("method", "route"), registry=registry,
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
        )  # fmt: skip

    def timed(self, scope: Scope, send: Send) -> Send:
        """A `send` that notes when the answer begins."""
        began = time.perf_counter()

        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                method = scope["method"] if scope["method"] in METHODS else "other"
                route = getattr(scope.get("route"), "path", "none")
                self._count.labels(method, route, str(message["status"])).inc()
                self._seconds.labels(method, route).observe(time.perf_counter() - began)
            await send(message)

        return noting


class Counters:
    """All that is counted and measured of one service."""

    def __init__(self, service: Service) -> None:
        self._registry = CollectorRegistry()
        self.requests = Requests(self._registry)
        self._registry.register(_Now(service))

    def exposition(self) -> bytes:
        """Everything, in Prometheus' text format."""
        return generate_latest(self._registry)


class _Now(Collector):
    """What is read at the moment of the scrape."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def describe(self) -> Iterable[Metric]:
        """Nothing ahead: names are fixed, and reading them would ask the store."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Every gauge."""
        yield from self._of_jobs()
        yield from self._of_runs()
        yield from self._of_service()
        yield from self._of_cluster()

    def _of_jobs(self) -> Iterator[Metric]:
        counts = self._service.store.counts_by_kind()
        samples = [((kind, state), counts.get((kind, state), 0)) for kind in KINDS for state in STATES]
        yield _gauge("tench_jobs", "Jobs by kind and state.", ("kind", "state"), samples)

    def _of_runs(self) -> Iterator[Metric]:
        at_work = [job for job in self._service.store.open_jobs() if job.state in ADMITTED]
        seen = [(job, p) for job in at_work if (p := self._service.progress(job.id)) is not None]
        for name, (field, words) in JOB_FIGURES.items():
            samples = _numbers(((job.id, job.kind, p.unit), getattr(p, field)) for job, p in seen)
            yield _gauge(f"tench_job_{name}", words, ("job", "kind", "unit"), samples)
        for kind, prefix, figures in (("train", "training", TRAINING_FIGURES), ("ingest", "ingest", INGEST_FIGURES)):
            for name, (figure, words) in figures.items():
                samples = _numbers(((job.id,), p.figures.get(figure)) for job, p in seen if job.kind == kind)
                yield _gauge(f"tench_{prefix}_{name}", words, ("job",), samples)

    def _of_service(self) -> Iterator[Metric]:
        service = self._service
        before = time.perf_counter()
        usable = service.store.is_usable()
        seconds = time.perf_counter() - before
        for name, words, value in (
            ("event_streams", "Streams of events and logs that are open.", service.streams.num_open),
            ("store_usable", "1 while the store answers.", usable),
            ("store_query_seconds", "Seconds that one small query of the store took just now.", seconds),
            ("watcher_silence_seconds", "Seconds since the watcher wrote to the store.", service.watcher_silence_s()),
        ):
            yield _gauge(f"tench_{name}", words, (), [((), value)])

    def _of_cluster(self) -> Iterator[Metric]:
        note = self._service.ray_note()
        yield _gauge("tench_ray_reachable", "1 while Ray answers.", (), [((), note["reachable"])])
        nodes = note["nodes"] if note["reachable"] else []
        for name, (field, words) in NODE_FIGURES.items():
            samples = _numbers(((node["name"],), node.get(field)) for node in nodes)
            yield _gauge(f"tench_node_{name}", words, ("node",), samples)
        devices = [(n["name"], str(i), d) for n in nodes for i, d in enumerate(n.get("devices", []))]
        for name, (field, words) in GPU_FIGURES.items():
            samples = _numbers(((node, gpu), device.get(field)) for node, gpu, device in devices)
            yield _gauge(f"tench_gpu_{name}", words, ("node", "gpu"), samples)


def _numbers(found: Iterable[tuple[tuple[str, ...], Any]]) -> list[Sample]:
    """Those that are known: a figure may be missing, or null, until there is one."""
    return [(labels, float(value)) for labels, value in found if isinstance(value, int | float)]


def _gauge(name: str, words: str, labels: tuple[str, ...], samples: Iterable[Sample]) -> Metric:
    gauge = GaugeMetricFamily(name, words, labels=labels)
    for values, value in samples:
        gauge.add_metric(values, float(value))
    return gauge
