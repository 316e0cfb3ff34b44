"""A client of the service in a few lines: what `tench submit` and `tench jobs` use.

client = Client("http://127.0.0.1:8400")
job = client.submit("verify", {"dataset": "/data/imagenet-jpeg"})
print(client.wait(job["id"])["result"])
"""

import json
import os
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import httpx2

from cluster.jobs import MAX_ATTEMPTS
from ingest.errors import RefusedError, TenchError, UsageError
from ingest.progress import Event

SERVER = "http://127.0.0.1:8400"
TIMEOUT_S = 60.0
SILENCE_S = 45.0
"""A stream that says nothing for so long is broken: the service says something every ten seconds."""
RETRY_S, PAUSE_S = 30.0, 0.5
PATIENCE_S = 600.0
"""How long a service that went away is waited for."""
PAGE = 1000

Job = dict[str, Any]


class Away(TenchError):
    """The service did not answer, or broke off in the middle."""


class Message(NamedTuple):
    """One message of a job's stream: the job as it is now, an event, or the latest progress."""

    kind: Literal["job", "event", "progress"]
    data: dict[str, Any]


class Client:
    """Asks the service at an address. Every refusal becomes an error with the service's own words."""

    def __init__(self, server: str = SERVER, token: str | None = None) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.server = server.rstrip("/")
        self._http = httpx2.Client(base_url=self.server, headers=headers, timeout=TIMEOUT_S, trust_env=False)

    @classmethod
    def from_environment(cls, server: str | None = None) -> "Client":
        """The server that is told, or TENCH_SERVER; the token in the file TENCH_TOKEN_FILE. Raises RefusedError."""
        file = os.environ.get("TENCH_TOKEN_FILE")
        try:
            token = Path(file).expanduser().read_text().strip() if file else None
        except OSError as error:
            raise RefusedError(
                f"TENCH_TOKEN_FILE={file}: cannot be read ({error.strerror}); put the token into it that `tench token add` "
                "printed, or unset it where no token is needed"
            ) from None
        return cls(server or os.environ.get("TENCH_SERVER") or SERVER, token)

    def close(self) -> None:
        """Let go of the connections."""
        self._http.close()

    def submit(
        self, kind: str, settings: dict[str, Any], *, after: str | None = None, priority: int = 0, name: str = "",
        max_attempts: int = MAX_ATTEMPTS, key: str | None = None,
    ) -> Job:  # fmt: skip
        """Ask for a job. If the connection breaks, it is asked again under the same key: that starts one job."""
        headers = {"Idempotency-Key": key or secrets.token_hex(16)}
        body = {"kind": kind, "settings": settings, "after": after, "priority": priority, "name": name}
        body["max_attempts"] = max_attempts
        job: Job = self._ask_again("POST", "/v1/jobs", json=body, headers=headers).json()
        return job

    def dry_run(self, kind: str, settings: dict[str, Any]) -> dict[str, Any]:
        """What a job would do: its settings, what it needs, a forecast. Nothing is started."""
        body = {"kind": kind, "settings": settings}
        return self._json("POST", "/v1/jobs?dry_run=true", json=body, timeout=httpx2.Timeout(TIMEOUT_S, read=None))

    def clone(self, job_id: str, changes: dict[str, Any] | None = None, key: str | None = None) -> Job:
        """A new job with the settings of another one, some of them changed."""
        job = self.job(job_id)
        settings = job["settings"] | (changes or {})
        same = {name: job[name] for name in ("priority", "name", "max_attempts")}
        return self.submit(job["kind"], settings, **same, key=key)

    def job(self, job_id: str) -> Job:
        """One job, with its progress."""
        return self._json("GET", f"/v1/jobs/{job_id}")

    def jobs(
        self, state: str | None = None, kind: str | None = None, limit: int = 100, cursor: str | None = None
    ) -> list[Job]:
        """The newest jobs, or those older than the job that `cursor` names."""
        return self.jobs_page(state, kind, limit, cursor)[0]

    def jobs_page(
        self, state: str | None = None, kind: str | None = None, limit: int = 100, cursor: str | None = None
    ) -> tuple[list[Job], str | None]:
        """As `jobs`, and the cursor of what follows, None after the last."""
        found: list[Job] = []
        while True:
            wanted = {"state": state, "kind": kind, "cursor": cursor, "limit": min(limit - len(found), PAGE)}
            page = self._json("GET", "/v1/jobs", params={k: v for k, v in wanted.items() if v is not None})
            found += page["jobs"]
            cursor = page["next"]
            if cursor is None or len(found) >= limit:
                return found, cursor

    def stop(self, job_id: str) -> Job:
        """Ask a job to stop at its next safe point."""
        return self._json("POST", f"/v1/jobs/{job_id}/stop")

    def resume(self, job_id: str) -> Job:
        """Queue a failed or stopped job again."""
        return self._json("POST", f"/v1/jobs/{job_id}/resume")

    def wait(self, job_id: str) -> Job:
        """The job, once it has ended. Raises TenchError with the job's own words if it did not succeed."""
        job: Job = {}
        for message in self.follow(job_id):
            job = message.data if message.kind == "job" else job
        raise_for(job)
        return job

    def events(self, job_id: str) -> Iterator[Event]:
        """Every event of a job as it comes, from the first one on, until it has ended; as `follow`."""
        return (Event(**message.data) for message in self.follow(job_id) if message.kind == "event")

    def follow(self, job_id: str, on_away: Callable[[str], None] = lambda words: None) -> Iterator[Message]:
        """All messages of a job until it has ended.

        A service that goes away on the way is waited for up to `PATIENCE_S`, and followed on from where it was; then
        `on_away` is told. Raises Away if it does not come back, or was not there from the beginning.
        """
        last, has_ended, away_since = "", False, None
        while True:
            try:
                for mark, message in self._stream(job_id, last):
                    last, away_since = mark, None
                    has_ended = message.data["has_ended"] if message.kind == "job" else has_ended
                    yield message
                if has_ended:
                    return
            except Away as error:
                if not last or (away_since is not None and time.monotonic() - away_since > PATIENCE_S):
                    raise
                if away_since is None:
                    away_since = time.monotonic()
                    on_away(error.message)
            time.sleep(PAUSE_S)

    def _stream(self, job_id: str, last_event_id: str) -> Iterator[tuple[str, Message]]:
        """(event id, message) after an event id. Ends with the job, or with the service."""
        headers = {"Last-Event-ID": last_event_id} if last_event_id else {}
        timeout = httpx2.Timeout(TIMEOUT_S, read=SILENCE_S)
        try:
            with self._http.sse(f"/v1/jobs/{job_id}/events", headers=headers, timeout=timeout) as source:
                if not source.response.is_success:
                    source.response.read()
                    raise _refusal(source.response)
                for told in source:
                    if told.event in ("job", "event", "progress"):
                        yield told.id, Message(told.event, json.loads(told.data))  # type: ignore[arg-type]
        except httpx2.HTTPError as error:
            raise self._away(error) from error

    def logs(self, job_id: str, tail: int | None = None, attempt: int | None = None) -> str:
        """What the job's process wrote: all of it, or the last lines; of the newest attempt, or another one."""
        return self._ask("GET", f"/v1/jobs/{job_id}/logs", params=_given(tail=tail, attempt=attempt)).text

    def follow_logs(self, job_id: str, tail: int | None = None, attempt: int | None = None) -> Iterator[str]:
        """The same as it comes, in pieces: of one attempt to its end, or else of one after the other until the job has
        ended. Raises Away if the service goes away on the way."""
        number = attempt or self.job(job_id)["attempt"] or 1
        while True:
            yield from self._log_stream(job_id, tail, number)
            job = self.job(job_id)
            if attempt is None and job["attempt"] != number:
                number, tail = job["attempt"], None  # a short one may have ended by now: its log is still to be told
            elif job["has_ended"] or job["attempt"] != number:
                return
            else:
                raise Away(
                    f"{self.server}: stopped in the middle of the log; the same command shows it again and goes on"
                )

    def _log_stream(self, job_id: str, tail: int | None, attempt: int) -> Iterator[str]:
        params = _given(tail=tail, attempt=attempt) | {"follow": "true"}
        try:
            with self._http.stream(
                "GET", f"/v1/jobs/{job_id}/logs", params=params, timeout=httpx2.Timeout(TIMEOUT_S, read=None)
            ) as response:
                if not response.is_success:
                    response.read()
                    raise _refusal(response)
                yield from response.iter_text()
        except httpx2.HTTPError as error:
            raise self._away(error) from error

    def datasets(self) -> list[dict[str, Any]]:
        """The sealed datasets under the service's roots."""
        found: list[dict[str, Any]] = self._json("GET", "/v1/datasets")["datasets"]
        return found

    def dataset(self, dataset_id: str) -> dict[str, Any]:
        """Everything that is known of a dataset."""
        return self._json("GET", f"/v1/datasets/{dataset_id}")

    def remove_dataset(self, dataset_id: str, uri: str, force: bool = False) -> dict[str, Any]:
        """Remove a dataset; what was removed, and what was left because it is not part of it."""
        params = {"uri": uri, "force": str(force).lower()}
        return self._json("DELETE", f"/v1/datasets/{dataset_id}", params=params, timeout=None)

    def _json(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self._ask(method, path, **options).json()
        return answer

    def _ask_again(self, method: str, path: str, **options: Any) -> httpx2.Response:
        """For what may be asked twice: once a request has gone out and broken off, it is repeated for a while."""
        deadline = None
        while True:
            try:
                return self._ask(method, path, **options)
            except Away as error:
                never_came_about = isinstance(error.__cause__, httpx2.ConnectError | httpx2.ConnectTimeout)
                if never_came_about if deadline is None else time.monotonic() > deadline:
                    raise
                deadline = deadline or time.monotonic() + RETRY_S
                time.sleep(PAUSE_S)

    def _ask(self, method: str, path: str, **options: Any) -> httpx2.Response:
        try:
            response = self._http.request(method, path, **options)
        except UnicodeEncodeError as error:
            raise UsageError(f"{error.object!a}: is no text, so it cannot be sent; give a name in UTF-8") from None
        except httpx2.HTTPError as error:
            raise self._away(error) from error
        if response.is_success:
            return response
        raise _refusal(response)

    def _away(self, error: httpx2.HTTPError) -> Away:
        return Away(
            f"{self.server}: does not answer ({str(error) or type(error).__name__}); is `tench serve` running? "
            "--server or TENCH_SERVER says where"
        )


def raise_for(job: Job) -> None:
    """Raise the error that a job ended with, with its exit code; nothing if it succeeded."""
    if job["state"] == "succeeded":
        return
    error = TenchError(f"job {job['id']} {job['state']}: {job['error'] or 'it wrote no reason'}")
    error.exit_code = job["exit_code"] or (130 if job["state"] == "stopped" else 1)
    raise error


def _given(**values: int | None) -> dict[str, str]:
    return {name: str(value) for name, value in values.items() if value is not None}


def _refusal(response: httpx2.Response) -> TenchError:
    try:
        detail = str(response.json()["detail"])
    except (ValueError, KeyError, TypeError):
        detail = f"HTTP {response.status_code}"
    if response.status_code == httpx2.codes.UNAUTHORIZED:
        return RefusedError(
            f"the service refuses: {detail} TENCH_TOKEN_FILE names the file that holds the client's token."
        )
    if response.status_code in (httpx2.codes.FORBIDDEN, httpx2.codes.CONFLICT):
        return RefusedError(f"the service refuses: {detail}")
    if response.status_code in (httpx2.codes.TOO_MANY_REQUESTS, httpx2.codes.SERVICE_UNAVAILABLE):
        return Away(detail)
    return UsageError(detail) if response.status_code < httpx2.codes.INTERNAL_SERVER_ERROR else TenchError(detail)
