"""Routes of the machine room: the cluster, health, counters."""

from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from cluster.jobs import ADMITTED, STATES
from cluster.service import Service


def add_cluster(app: FastAPI, service: Service) -> None:
    """Look at the cluster and at the service itself."""

    @app.get("/v1/cluster")
    def cluster() -> dict[str, Any]:
        """Nodes, what they have, and what the jobs at work hold of it."""
        note = service.ray_note()
        held = [job.grant for job in service.store.open_jobs() if job.state in ADMITTED]
        return {
            "reachable": note["reachable"],
            "nodes": note["nodes"],
            "cpus": sum(n["cpus"] for n in note["nodes"]),
            "gpus": sum(n["gpus"] for n in note["nodes"]),
            "used_cpus": sum(n.cpus for n in held),
            "used_gpus": sum(n.gpus for n in held),
            "jobs": service.store.counts(),
        }

    @app.get("/healthz")
    def healthz() -> dict[str, str]:
        """The process answers."""
        return {"status": "ok"}

    @app.get("/readyz")
    def readyz() -> Response:
        """The store can be used and Ray can be reached."""
        ready = {"store": service.store.is_usable(), "ray": service.ray_note()["reachable"]}
        return JSONResponse(ready, 200 if all(ready.values()) else 503)

    @app.get("/metrics", response_class=PlainTextResponse)
    def prometheus() -> str:
        """Counters for Prometheus."""
        counts = service.store.counts()
        lines = ["# HELP tench_jobs Jobs by state.", "# TYPE tench_jobs gauge"]
        lines += [f'tench_jobs{{state="{state}"}} {counts.get(state, 0)}' for state in STATES]
        lines += ["# HELP tench_ray_reachable Whether Ray answers.", "# TYPE tench_ray_reachable gauge"]
        lines += [f"tench_ray_reachable {int(service.ray_note()['reachable'])}"]
        return "\n".join(lines) + "\n"
