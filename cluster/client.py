"""A client of the service in a few lines: what `tench submit` and `tench jobs` use.

client = Client("http://127.0.0.1:8400")
job = client.submit("verify", {"dataset": "/data/imagenet-jpeg"})
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2

from ingest.errors import RefusedError, TenchError, UsageError
from ingest.progress import Event, Progress

SERVER = "http://127.0.0.1:8400"
TIMEOUT_S = 60.0
POLL_S = 0.5

Job = dict[str, Any]


class Client:
    """Asks the service at an address. Every refusal becomes an error with the service's own words."""

    def __init__(self, server: str = SERVER, token: str | None = None) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.server = server.rstrip("/")
        self._http = httpx2.Client(base_url=self.server, headers=headers, timeout=TIMEOUT_S, trust_env=False)

    @classmethod
    def from_environment(cls) -> "Client":
        """TENCH_SERVER and TENCH_TOKEN_FILE."""
        file = os.environ.get("TENCH_TOKEN_FILE")
        token = Path(file).expanduser().read_text().strip() if file else None
        return cls(os.environ.get("TENCH_SERVER", SERVER), token)

    def close(self) -> None:
        """Let go of the connections."""
        self._http.close()

    def submit(
        self, kind: str, settings: dict[str, Any], after: str | None = None, priority: int = 0, key: str | None = None
    ) -> Job:
        """Ask for a job; with a key, asking again is asking once."""
        body = {"kind": kind, "settings": settings, "after": after, "priority": priority}
        headers = {"Idempotency-Key": key} if key else {}
        return self._json("POST", "/v1/jobs", json=body, headers=headers)

    def job(self, job_id: str) -> Job:
        """One job, with its progress."""
        return self._json("GET", f"/v1/jobs/{job_id}")

    def jobs(self, state: str | None = None) -> list[Job]:
        """The newest jobs."""
        found: list[Job] = self._json("GET", "/v1/jobs", params={"state": state} if state else {})["jobs"]
        return found

    def events(self, job_id: str, after: tuple[int, int] = (0, 0)) -> list[Event]:
        """Events above (attempt, sequence number)."""
        answer = self._json("GET", f"/v1/jobs/{job_id}/events", params={"after": f"{after[0]}.{after[1]}"})
        return [Event(**event) for event in answer["events"]]

    def stop(self, job_id: str) -> Job:
        """Ask a job to stop at its next safe point."""
        return self._json("POST", f"/v1/jobs/{job_id}/stop")

    def resume(self, job_id: str) -> Job:
        """Queue a failed or stopped job again."""
        return self._json("POST", f"/v1/jobs/{job_id}/resume")

    def logs(self, job_id: str) -> str:
        """What the job's process wrote."""
        return self._ask("GET", f"/v1/jobs/{job_id}/logs").text

    def datasets(self) -> list[dict[str, Any]]:
        """The sealed datasets under the service's roots."""
        found: list[dict[str, Any]] = self._json("GET", "/v1/datasets")["datasets"]
        return found

    def _json(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self._ask(method, path, **options).json()
        return answer

    def _ask(self, method: str, path: str, **options: Any) -> httpx2.Response:
        try:
            response = self._http.request(method, path, **options)
        except httpx2.HTTPError as error:
            raise TenchError(
                f"{self.server}: does not answer ({error}); is `tench serve` running? TENCH_SERVER says where"
            ) from error
        if response.is_success:
            return response
        raise _refusal(response)


class RemoteRun:
    """A job's run as the service tells it; reads like the `RunReader` of its folder."""

    def __init__(self, client: Client, job_id: str) -> None:
        self._client, self._job_id = client, job_id
        self.job = client.job(job_id)

    def latest_attempt(self) -> int:
        """The attempt under way; asks the service anew."""
        self.job = self._client.job(self._job_id)
        return int(self.job["attempt"])

    def progress(self, attempt: int | None = None) -> Progress | None:
        """The progress as of `latest_attempt`."""
        record = self.job["progress"]
        return Progress(**record) if record and attempt in (None, record["attempt"]) else None

    def events(self, attempt: int | None = None, after_seq: int = 0) -> Iterator[Event]:
        """Events of an attempt above a sequence number."""
        number = attempt or int(self.job["attempt"])
        return (e for e in self._client.events(self._job_id, (number, after_seq)) if e.attempt == number)


def wait_for(client: Client, job_id: str) -> Job:
    """Show a job's bar and events on standard error until it has ended; the job."""
    from cluster.display import Display

    run = RemoteRun(client, job_id)
    with Display(run) as display:
        while True:
            # Once more after its end: what it said last may come a moment later than its state.
            has_ended = run.job["has_ended"]
            display.look()
            if has_ended:
                return run.job
            time.sleep(POLL_S)


def watch_job(client: Client, job_id: str) -> int:
    """Follow a job to its end and print its facts; its exit code."""
    from cluster.display import facts_lines

    job = wait_for(client, job_id)
    if job["state"] == "succeeded":
        print("\n".join(facts_lines(job["result"] or {})))
        return 0
    raise_for(job)
    return 1


def raise_for(job: Job) -> None:
    """Raise the error that a job ended with, with its exit code; nothing if it succeeded."""
    if job["state"] == "succeeded":
        return
    error = TenchError(f"job {job['id']} {job['state']}: {job['error'] or 'it wrote no reason'}")
    error.exit_code = job["exit_code"] or (130 if job["state"] == "stopped" else 1)
    raise error


def _refusal(response: httpx2.Response) -> TenchError:
    try:
        detail = str(response.json()["detail"])
    except (ValueError, KeyError, TypeError):
        detail = f"HTTP {response.status_code}"
    if response.status_code in (401, 403):
        return RefusedError(f"the service refuses: {detail} (TENCH_TOKEN_FILE names the client's token)")
    return UsageError(detail) if response.status_code < 500 else TenchError(detail)
