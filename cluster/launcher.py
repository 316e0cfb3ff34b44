"""Jobs of Ray over its REST interface: the only place that speaks to it. Ray's table is never our history."""

import time
from dataclasses import dataclass
from typing import Any

import httpx2

from cluster.api.logs import Log, end_of
from cluster.jobs import Needs
from cluster.ledger import Capacity
from ingest.errors import TenchError

ENTRYPOINT = "exec python -m cluster.entry"
"""The same fixed line for every job: settings travel as a file in the run folder, never through a shell."""
STOP_WAIT_S = 60
TIMEOUT_S = 10.0
MEASURED = ("cpu_share", "host_memory_used_bytes", "devices")
"""What is told of a node that changes all the time."""


class RayUnreachable(TenchError):
    """Ray did not answer, or not as Ray: nothing is known of its jobs."""


class OpenRay(RayUnreachable):
    """Ray answers anybody: as good as out of reach."""


@dataclass(frozen=True)
class Nodes:
    """The nodes of a cluster that are alive, each as `views.NodeView` tells it."""

    nodes: tuple[dict[str, Any], ...]

    @property
    def capacity(self) -> Capacity:
        """What they have together."""
        return Capacity(tuple((n["cpus"], n["gpus"]) for n in self.nodes), sum(n["memory_bytes"] for n in self.nodes))


class RayJobs:
    """The jobs of one Ray cluster, by the address of its dashboard and its token.

    A Ray that answers anybody, without a token, is used only if it `may_be_open`.
    """

    def __init__(self, address: str, token: str | None, may_be_open: bool = False) -> None:
        self._may_be_open = may_be_open
        self.move_to(address, token)

    def move_to(self, address: str, token: str | None) -> None:
        """Speak to another Ray from now on; calls under way end with the one before."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.address = address
        self._is_trusted = self._may_be_open
        self._refused_at: float | None = None
        self._http = httpx2.Client(base_url=address, headers=headers, timeout=TIMEOUT_S, trust_env=False)

    def close(self) -> None:
        """Let go of the connections."""
        self._http.close()

    def submit(self, submission_id: str, environment: dict[str, str], process: Needs | None = None) -> None:
        """Submit the fixed command once: a second submit of the same id is found to be there already.

        `process`: CPUs and GPUs of the command's own process, for work that it does itself; Ray then finds a node that
        has them. Without, it waits for others' work, on the head.
        """
        if self.state(submission_id) is not None:
            self._refused_at = None
            return
        body: dict[str, Any] = {
            "entrypoint": ENTRYPOINT,
            "submission_id": submission_id,
            "runtime_env": {"env_vars": {**environment, "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S)}},
        }
        if process is not None:
            body |= {"entrypoint_num_cpus": process.cpus, "entrypoint_num_gpus": process.gpus}
        if self._refused_at is None:
            self._refused_at = time.monotonic()  # until it is taken
        response = self._ask("POST", "/api/jobs/", json=body)
        if response.status_code != 200 and self.state(submission_id) is None:
            raise RayUnreachable(f"Ray took no job: HTTP {response.status_code} {response.text[-300:]!r}")
        self._refused_at = None

    def refused_s(self) -> float:
        """Seconds for which Ray has taken no job though it was asked to; 0 if it took the last one."""
        refused_at = self._refused_at
        return 0.0 if refused_at is None else time.monotonic() - refused_at

    def state(self, submission_id: str) -> str | None:
        """PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED; None if Ray knows no such job."""
        response = self._ask("GET", f"/api/jobs/{submission_id}")
        if response.status_code == 404:
            return None
        self._refuse_strange(response)
        return str(response.json()["status"])

    def stop(self, submission_id: str) -> None:
        """SIGTERM to the job's process; SIGKILL after STOP_WAIT_S."""
        self._ask("POST", f"/api/jobs/{submission_id}/stop")

    def log(self, submission_id: str) -> Log:
        """The end of what the job's process wrote; empty if Ray no longer knows it. Memory is bounded."""
        try:
            with self._http.stream("GET", f"/api/jobs/{submission_id}/logs") as response:
                self._refuse_refusal(response)
                return end_of(response.iter_bytes()) if response.status_code == 200 else Log()
        except httpx2.HTTPError as error:
            raise RayUnreachable(f"Ray at {self.address} does not answer: {error}") from error

    def logs(self, submission_id: str) -> str:
        """The same as text."""
        return self.log(submission_id).text()

    def running(self) -> list[str]:
        """Submission ids of jobs that have not ended."""
        response = self._ask("GET", "/api/jobs/")
        self._refuse_strange(response)
        return [j["submission_id"] for j in response.json() if j.get("status") in ("PENDING", "RUNNING")]

    def nodes(self) -> Nodes:
        """The nodes that are alive. The first call, and the first after Ray was out of reach, looks whether Ray is open."""
        self.refuse_open()
        response = self._ask("GET", "/nodes?view=summary")
        self._refuse_strange(response)
        alive = [n for n in response.json()["data"]["summary"] if n.get("raylet", {}).get("state") == "ALIVE"]
        return Nodes(tuple(_node(n) for n in alive))

    def demands_token(self) -> bool:
        """Whether Ray refuses a call without its token, as it must."""
        try:
            response = httpx2.get(f"{self.address}/api/jobs/", timeout=TIMEOUT_S, trust_env=False)
        except httpx2.HTTPError as error:
            raise RayUnreachable(f"Ray at {self.address} does not answer: {error}") from error
        return response.status_code in (401, 403)

    def refuse_open(self) -> None:
        """Raise OpenRay if this Ray, not looked at since it was last out of reach, answers without a token."""
        if not self._is_trusted and not self.demands_token():
            raise OpenRay(
                f"Ray at {self.address} answers without a token, so anyone who reaches it can run any program there; "
                "start it with RAY_AUTH_MODE=token, or give --allow-open-ray"
            )
        self._is_trusted = True

    def _ask(self, method: str, path: str, **options: Any) -> httpx2.Response:
        try:
            response = self._http.request(method, path, **options)
        except httpx2.HTTPError as error:
            self._is_trusted = self._may_be_open  # who answers next may be another
            raise RayUnreachable(f"Ray at {self.address} does not answer: {error}") from error
        self._refuse_refusal(response)
        return response

    def _refuse_refusal(self, response: httpx2.Response) -> None:
        if response.status_code in (401, 403):
            raise RayUnreachable(f"Ray at {self.address} refuses the token (RAY_AUTH_TOKEN_PATH)")

    def _refuse_strange(self, response: httpx2.Response) -> None:
        if response.status_code != 200:
            raise RayUnreachable(f"Ray at {self.address}: HTTP {response.status_code} {response.text[-200:]!r}")


def _node(node: dict[str, Any]) -> dict[str, Any]:
    raylet = node["raylet"]
    total = raylet.get("resourcesTotal", {})
    return {
        "name": node.get("hostname") or raylet.get("nodeManagerHostname", ""),
        "node_id": raylet.get("nodeId", "")[:12],
        "address": node.get("ip") or raylet.get("nodeManagerAddress", ""),
        "state": "alive",
        "is_head": bool(raylet.get("isHeadNode", False)),
        "cpus": int(total.get("CPU", 0)),
        "gpus": int(total.get("GPU", 0)),
        "memory_bytes": int(total.get("memory", 0)),
        **_use(node),
    }


def _use(node: dict[str, Any]) -> dict[str, Any]:
    """What a node is busy with, as its agent measured it last; nothing before its first report."""
    memory = node.get("mem")  # total, available, percent, used; bytes
    return {
        "cpu_share": _share(node.get("cpu")),
        "host_memory_used_bytes": int(memory[0] - memory[1]) if memory else None,
        "host_memory_bytes": int(memory[0]) if memory else None,
        "devices": [_device(gpu) for gpu in node.get("gpus") or []],
    }


def _device(gpu: dict[str, Any]) -> dict[str, Any]:
    used, total = (gpu.get(name) for name in ("memoryUsed", "memoryTotal"))  # MiB
    return {
        "name": str(gpu.get("name", "")),
        "utilisation": _share(gpu.get("utilizationGpu")),
        "memory_used_bytes": None if used is None else int(used) * 2**20,
        "memory_bytes": None if total is None else int(total) * 2**20,
    }


def _share(percent: float | None) -> float | None:
    return None if percent is None else round(percent / 100, 3)
