"""Routes of the machine room: the cluster, health, counters."""

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from cluster.api.counters import CONTENT_TYPE, Counters
from cluster.api.service import Service
from cluster.api.views import ClusterView, HealthView, ReadyView
from cluster.jobs import ADMITTED

WATCHER_SILENCE_S = 30.0
"""A watcher that has not written for so long is stuck, or cannot write."""
NOT_READY: Mapping[int | str, dict[str, Any]] = {
    503: {"model": ReadyView, "description": "Jobs cannot be taken, or not run: what is false says why."}
}


def add_cluster(app: FastAPI, service: Service, counters: Counters) -> None:
    """Look at the cluster and at the service itself."""

    @app.get("/v1/cluster", response_model=ClusterView)
    def cluster() -> dict[str, Any]:
        """Nodes, what they have and how busy they are, and the jobs at work with what they hold of it."""
        note = service.ray_note()
        at_work = [job for job in service.store.open_jobs() if job.state in ADMITTED]
        return {
            **note,
            "cpus": sum(n["cpus"] for n in note["nodes"]),
            "gpus": sum(n["gpus"] for n in note["nodes"]),
            "used_cpus": sum(job.grant.cpus for job in at_work),
            "used_gpus": sum(job.grant.gpus for job in at_work),
            "work": [service.view(job) for job in at_work],
            "jobs": service.store.counts(),
        }

    @app.get("/healthz")
    async def healthz() -> HealthView:
        """The process answers: without a thread, of which there may be none left for a moment."""
        return HealthView(status="ok")

    @app.get("/readyz", response_model=ReadyView, responses=dict(NOT_READY))
    def readyz() -> Response:
        """The store can be read and written, the watcher is at work, and Ray can be reached."""
        store = service.store.is_usable()
        ready = {
            "store": store,
            "watcher": store and service.watcher_silence_s() < WATCHER_SILENCE_S,
            "ray": store and service.ray_note()["reachable"],
        }
        return JSONResponse(ready, 200 if all(ready.values()) else 503)

    @app.get("/metrics", response_class=PlainTextResponse)
    def prometheus() -> Response:
        """Counters for Prometheus."""
        return Response(counters.exposition(), media_type=CONTENT_TYPE)
