"""How a command of the command line goes: its record in a run folder, its bar on standard error, its facts on standard
output, its end as an exit code."""

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from cluster.cli.flags import home, print_json
from ingest.errors import RefusedError

if TYPE_CHECKING:
    from cluster.commands import Outcome


def run_recorded(kind: str, request: Any, folder: str, as_json: bool, num_cpus: int | None = None) -> int:
    """Run a command, tell its facts or what it failed of; its exit code."""
    outcome, facts = recorded(kind, request, folder, num_cpus)
    return failed(outcome, facts, as_json) if outcome.exit_code else say(facts, as_json)


def recorded(kind: str, request: Any, folder: str, num_cpus: int | None = None) -> "tuple[Outcome, dict[str, Any]]":
    """Run a command with its record in `folder` and its bar on standard error; how it ended, and its facts."""
    from cluster.cli.display import shown
    from cluster.commands import execute, needs_ray
    from cluster.entry import attempt_facts
    from ingest.progress import RunWriter
    from ingest.storage import Place

    place = Place(folder)
    with ExitStack() as stack:
        if needs_ray(request):
            from cluster.ray_session import own_ray

            print("Starting Ray on this machine (some seconds) ...", file=sys.stderr)
            stack.enter_context(own_ray(num_cpus))
        settings = request.model_dump(mode="json")
        writer = RunWriter.begin(place, kind, {"settings": settings}, **attempt_facts(kind, settings))
        with shown(place):
            outcome = execute(request, writer)
    return outcome, {"run": place.uri, **outcome.facts}


def say(facts: dict[str, Any], as_json: bool, before: Sequence[str] = ()) -> int:
    """Print facts; the exit code 0."""
    from cluster.cli.display import facts_lines

    if as_json:
        print_json(facts)
    else:
        print("\n".join([*before, *facts_lines(facts)]))
    return 0


def failed(outcome: "Outcome", facts: dict[str, Any], as_json: bool) -> int:
    """Print what a command failed of; its exit code."""
    return complain(outcome.exit_code, outcome.error or "failed", as_json, facts)


def complain(exit_code: int, message: str, as_json: bool, facts: dict[str, Any] | None = None) -> int:
    """Print an error, with --json as an object as well; the exit code."""
    print(f"tench: {message}", file=sys.stderr)
    if as_json:
        print_json({**(facts or {}), "error": message, "exit_code": exit_code})
    elif damages := (facts or {}).get("damages"):
        print("\n".join(f"{known['path']}: {known['problem']}" for known in damages))
    return exit_code


def home_run(kind: str) -> str:
    """The folder of a new run in HOME."""
    from ingest.progress import new_run_id

    return str(home() / "runs" / new_run_id(kind))


def refuse_existing(folder: str, resume: bool) -> None:
    """Raise RefusedError if a folder holds a run that is not to be resumed, or none that could be."""
    from ingest.progress import RunReader
    from ingest.storage import Place

    attempts = RunReader(Place(folder)).latest_attempt()
    if attempts and not resume:
        raise RefusedError(f"{folder}: holds a run already; give --resume to go on with it, or another folder")
    if resume and not attempts:
        raise RefusedError(f"{folder}: holds no run that could be resumed; leave --resume out to start one")


def refuse_missing(folder: str) -> None:
    """Raise RefusedError if a folder holds no run."""
    from ingest.progress import RunReader
    from ingest.storage import Place

    if not RunReader(Place(folder)).latest_attempt():
        raise RefusedError(f"{folder}: holds no run; `tench train DATASET {folder}` makes one")
