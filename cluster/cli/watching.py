"""A job of a service as a terminal shows it: a bar, its events, its changes of state, its end as an exit code."""

import sys
from typing import Any

from cluster.cli.display import Display, facts_lines
from cluster.cli.flags import print_json_line
from cluster.client import Client, Job, Message, raise_for
from ingest.errors import TenchError
from ingest.progress import Event, Progress


def watched(client: Client, job_id: str, as_json: bool = False) -> Job:
    """Follow a job until it has ended, on standard error; with `as_json`, its messages as lines on standard output."""
    job: Job = {}
    with Display() as display:

        def on_away(words: str) -> None:
            display.say(f"! {words} Waiting for it; Ctrl-C ends the watching, not the job.")

        for message in client.follow(job_id, on_away):
            if as_json:
                print_json_line({message.kind: message.data})
            if message.kind == "job":
                if words := change_words(job, message.data):
                    display.say(words)
                job = message.data
            elif not as_json:
                _show(display, message)
    return job


def watch_job(client: Client, job_id: str, as_json: bool = False) -> int:
    """Follow a job to its end and print its facts; its exit code. Raises TenchError with its words if it failed; with
    `as_json` these are the last line of JSON."""
    try:
        job = watched(client, job_id, as_json)
        raise_for(job)
    except TenchError as error:
        if not as_json:
            raise
        print(f"tench: {error.message}", file=sys.stderr)
        print_json_line({"error": error.message, "exit_code": error.exit_code})
        return error.exit_code
    if not as_json:
        print("\n".join(facts_lines(job["result"] or {})))
    return 0


def change_words(before: Job, job: Job) -> str | None:
    """What is worth a line when a job changes, None if nothing is: its state, its attempt, whether it is known."""
    shown: dict[str, Any] = {name: job[name] for name in ("state", "attempt", "unknown")}
    if job["has_ended"] or shown == {name: before.get(name) for name in shown}:
        return None
    if job["unknown"]:
        return f"! {job['state']} when Ray was last heard of; Ray cannot be reached now"
    attempt = f", attempt {job['attempt']}" if job["attempt"] > 1 else ""
    why = f": {job['error']}" if job["error"] else ""
    return f"{'! ' if why else '  '}{job['state']}{attempt}{why}"


def _show(display: Display, message: Message) -> None:
    if message.kind == "event":
        display.tell(Event(**message.data))
    else:
        display.draw(Progress(**message.data))
