"""Command line of the service's jobs: list, show, watch, logs, stop, resume, clone."""

import sys
import time
from typing import Annotated, Any

from cyclopts import App, Parameter

from cluster.cli.flags import JobId, Json, JsonLines, Server, Switch, connect, print_json
from cluster.jobs import State
from cluster.settings import KINDS, Kind
from ingest.errors import UsageError

jobs = App(name="jobs", help="Jobs of the service: list, show, watch, stop, resume, clone, read their logs.")


def add_to(app: App) -> None:
    """Hang these commands into the command line."""
    app.command(jobs)


@jobs.command(name="list")
def list_jobs(
    *,
    state: State | None = None,
    kind: Kind | None = None,
    limit: int = 100,
    cursor: str | None = None,
    server: Server = None,
    json: Json = False,
) -> int:
    """List jobs, the newest first.

    Parameters
    ----------
    state
        Only jobs in this state.
    kind
        Only jobs of this kind.
    limit
        At most so many.
    cursor
        Only jobs older than the one of this id: what a list before ended with.
    """
    if limit < 1:
        raise UsageError(f"--limit {limit}: expected a whole number of at least 1")
    found, following = connect(server).jobs_page(state, kind, limit, cursor)
    if json:
        return print_json({"jobs": found, "next": following})
    for job in found:
        print(f"{job['id']}  {job['state']:<9}  {job['kind']:<8}  {_progress(job)}".rstrip())
    if following:
        print(f"There are more: --cursor {following} goes on from here.", file=sys.stderr)
    return 0


@jobs.command
def show(job: JobId, *, server: Server = None, json: Json = False) -> int:
    """Show what is known of a job: state, settings, progress, how it ended."""
    found = connect(server).job(job)
    if json:
        return print_json(found)
    print("\n".join(job_lines(found)))
    return 0


@jobs.command
def watch(job: JobId, *, server: Server = None, json: JsonLines = False) -> int:
    """Follow a job to its end; leaves with the job's exit code. Ctrl-C ends the watching, not the job."""
    from cluster.cli.watching import watch_job

    return watch_job(connect(server), job, json)


@jobs.command
def stop(job: JobId, *, wait: Annotated[bool, Switch] = False, server: Server = None, json: Json = False) -> int:
    """Ask a job to stop at its next safe point; what it has finished is kept.

    Parameters
    ----------
    wait
        Leave only once it has ended.
    """
    client = connect(server)
    found = client.stop(job)
    if wait:
        found = [message.data for message in client.follow(job) if message.kind == "job"][-1]
        print(f"job {job} {found['state']}", file=sys.stderr)
    return print_json(found) if json else 0


@jobs.command
def resume(job: JobId, *, watch: Annotated[bool, Switch] = False, server: Server = None, json: Json = False) -> int:
    """Queue a failed or stopped job again: it goes on from what it has finished.

    Parameters
    ----------
    watch
        Follow the job to its end, as `tench jobs watch`.
    """
    from cluster.cli.watching import watch_job

    client = connect(server)
    found = client.resume(job)
    if watch:
        return watch_job(client, job, json)
    return print_json(found) if json else 0


@jobs.command
def clone(
    job: JobId,
    *,
    set: Annotated[tuple[str, ...], Parameter(negative="")] = (),
    watch: Annotated[bool, Switch] = False,
    server: Server = None,
    json: Json = False,
) -> int:
    """Send a new job with the settings of another one.

    Parameters
    ----------
    set
        A setting that is to differ, as in seed=3 or dataset=/data/other (repeatable).
    watch
        Follow the new job to its end, as `tench jobs watch`.
    """
    from cluster.cli.watching import watch_job

    client = connect(server)
    first = client.job(job)
    made = client.clone(job, changed(first["kind"], first["settings"], set))
    if watch:
        print(f"job {made['id']}", file=sys.stderr)
        return watch_job(client, made["id"], json)
    if json:
        return print_json(made)
    print(made["id"])
    return 0


@jobs.command
def logs(
    job: JobId,
    *,
    follow: Annotated[bool, Switch] = False,
    tail: int | None = None,
    attempt: int | None = None,
    server: Server = None,
) -> int:
    """Print what a job's process wrote.

    Parameters
    ----------
    follow
        Go on with what comes, until the job has ended.
    tail
        Only the last so many lines of what is there.
    attempt
        Of this attempt; of the newest one unless told.
    """
    client = connect(server)
    pieces = client.follow_logs(job, tail, attempt) if follow else [client.logs(job, tail, attempt)]
    for piece in pieces:
        sys.stdout.write(piece)
        sys.stdout.flush()
    return 0


def changed(kind: str, settings: dict[str, Any], changes: tuple[str, ...]) -> dict[str, Any]:
    """The changes `name=value` as values of their fields' types. Raises UsageError, ValidationError."""
    from ingest.storage import Place

    texts = dict(_split(change) for change in changes)
    model = KINDS[kind]
    lists = {name for name in texts if isinstance(settings.get(name), list)}
    values: dict[str, Any] = {name: text.split(",") if name in lists else text for name, text in texts.items()}
    values |= {name: None for name, text in texts.items() if not text}
    checked = model.model_validate(settings | values)
    from cluster.settings import places_of

    whole = checked.model_dump(mode="json") | {name: Place(uri).uri for name, uri in places_of(checked).items()}
    return {name: whole[name] for name in texts}


def _split(change: str) -> tuple[str, str]:
    name, equals, text = change.partition("=")
    if not equals:
        raise UsageError(f"--set {change}: expected SETTING=VALUE, as in seed=3")
    return name.strip().replace("-", "_"), text


def job_lines(job: dict[str, Any]) -> list[str]:
    """Facts of a job as lines for people."""
    from cluster.cli.display import facts_lines

    times = {name: _when(job[f"{name}_at"]) for name in ("created", "started", "ended") if job[f"{name}_at"]}
    facts = {
        "job": job["id"], "name": job["name"] or None, "kind": job["kind"],
        "state": f"{job['state']} (as last heard; Ray cannot be reached)" if job["unknown"] else job["state"],
        "after": job["after"], "priority": job["priority"] or None, "asked by": job["asked_by"],
        "stop asked by": job["stop_by"], "resume asked by": job["resume_by"], **times,
        "attempt": f"{job['attempt']} of at most {job['last_attempt']}" if job["attempt"] else None,
        "progress": _progress(job) if not job["has_ended"] and not job["error"] else None,
        "error": job["error"], "exit code": job["exit_code"],
    }  # fmt: skip
    given = {name: value for name, value in job["settings"].items() if value is not None}
    lines = [*facts_lines(facts), "settings", *(f"  {name:<19} {_shown(value)}" for name, value in given.items())]
    return lines + (["result", *(f"  {line}" for line in facts_lines(job["result"]))] if job["result"] else [])


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _when(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def _progress(job: dict[str, Any]) -> str:
    from cluster.cli.display import progress_words
    from ingest.progress import Progress

    if job["error"]:
        return str(job["error"])
    return progress_words(Progress(**job["progress"])) if job["progress"] else ""
