"""Command line of the service: serve, submit, jobs, datasets, token."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from cluster.jobs import State
from cluster.settings import KINDS, PLACES, JobRequest, ServeSettings
from ingest.settings import Settings
from ingest.storage import Place

Flat = Parameter(name="*", negative="")
Json = Annotated[bool, Parameter(negative="", help="Print one JSON object on standard output.")]
After = Annotated[str | None, Parameter(help=JobRequest.model_fields["after"].description)]
Priority = Annotated[int, Parameter(help=JobRequest.model_fields["priority"].description)]
JobId = Annotated[str, Parameter(help="Id of the job; `tench jobs list` shows them.")]
TokenFile = Annotated[str | None, Parameter(help="File of the hashes; HOME/tokens.json unless given.")]

SERVE_DEFAULTS = ServeSettings()

submit = App(name="submit", help="Send a job to the service (TENCH_SERVER, http://127.0.0.1:8400 unless set).")
jobs = App(name="jobs", help="Jobs of the service: list, show, watch, stop, resume, read their logs.")
datasets = App(name="datasets", help="Datasets that the service can see.")
token = App(name="token", help="Tokens of the service: needed on any address but loopback.")


def add_to(app: App) -> None:
    """Hang these commands into the command line."""
    app.command(serve)
    for part in (submit, jobs, datasets, token):
        app.command(part)


def home() -> Path:
    """The folder of runs and of the service: TENCH_HOME, or ~/.tench."""
    return Path(os.environ.get("TENCH_HOME", "~/.tench")).expanduser().absolute()


def serve(*, settings: Annotated[ServeSettings, Flat] = SERVE_DEFAULTS) -> int:
    """Serve jobs over HTTP, with a page to watch them; starts a Ray of its own unless one is named."""
    from cluster.serve import serve as serve_until_stopped

    if "home" not in settings.model_fields_set:
        settings = settings.model_copy(update={"home": str(home())})
    return serve_until_stopped(settings)


def _submit_command(kind: str, model: type[Settings]) -> Callable[..., int]:
    """`tench submit KIND`: its flags and its help are those of the kind's model."""

    def command(*, settings: Settings, after: After = None, priority: Priority = 0, json: Json = False) -> int:
        return _submit(kind, settings, after, priority, json)

    command.__annotations__["settings"] = Annotated[model, Flat]
    command.__doc__ = model.__doc__
    return command


for _kind, _settings_model in KINDS.items():
    submit.command(_submit_command(_kind, _settings_model), name=_kind)


@jobs.command(name="list")
def list_jobs(*, state: State | None = None, json: Json = False) -> int:
    """List the newest jobs.

    Parameters
    ----------
    state
        Only jobs in this state.
    """
    from cluster.client import Client

    found = Client.from_environment().jobs(state)
    if json:
        return print_json({"jobs": found})
    for job in found:
        print(f"{job['id']}  {job['state']:<9}  {job['kind']:<8}  {_progress(job)}")
    return 0


@jobs.command
def show(job: JobId) -> int:
    """Print everything that is known of a job, as JSON."""
    from cluster.client import Client

    return print_json(Client.from_environment().job(job))


@jobs.command
def watch(job: JobId) -> int:
    """Follow a job to its end; leaves with the job's exit code. Ctrl-C ends the watching, not the job."""
    from cluster.client import Client, watch_job

    return watch_job(Client.from_environment(), job)


@jobs.command
def stop(job: JobId) -> int:
    """Ask a job to stop at its next safe point; what it has finished is kept."""
    from cluster.client import Client

    Client.from_environment().stop(job)
    return 0


@jobs.command
def resume(job: JobId) -> int:
    """Queue a failed or stopped job again: it goes on from what it has finished."""
    from cluster.client import Client

    Client.from_environment().resume(job)
    return 0


@jobs.command
def logs(job: JobId) -> int:
    """Print what a job's process wrote."""
    from cluster.client import Client

    sys.stdout.write(Client.from_environment().logs(job))
    return 0


@datasets.command(name="list")
def list_datasets(*, json: Json = False) -> int:
    """List the sealed datasets under the service's roots."""
    from cluster.client import Client

    found = Client.from_environment().datasets()
    if json:
        return print_json({"datasets": found})
    for dataset in found:
        print(f"{dataset['dataset_id'][:16]}  {dataset['num_samples']:>9,} samples  {dataset['uri']}")
    return 0


@token.command
def add(name: str, *, right: str = "submit", token_file: TokenFile = None) -> int:
    """Make a token and print it, once; only its hash is kept.

    Parameters
    ----------
    name
        Whose token it is, to revoke it by.
    right
        read (look only) or submit (look, start and stop jobs).
    """
    from cluster.access import Tokens

    print(Tokens(_token_file(token_file)).add(name, right))
    return 0


@token.command(name="list")
def list_tokens(*, token_file: TokenFile = None) -> int:
    """List names and rights of the tokens."""
    from cluster.access import Tokens

    for name, right in Tokens(_token_file(token_file)).listed():
        print(f"{name:<24} {right}")
    return 0


@token.command
def revoke(name: str, *, token_file: TokenFile = None) -> int:
    """Revoke a token: it stops working at once.

    Parameters
    ----------
    name
        Whose token it is; `tench token list` shows them.
    """
    from cluster.access import Tokens

    Tokens(_token_file(token_file)).revoke(name)
    return 0


def _submit(kind: str, settings: Settings, after: str | None, priority: int, as_json: bool) -> int:
    from cluster.client import Client

    values = settings.model_dump(mode="json")
    # A path is meant as seen from here; the service works elsewhere.
    values |= {name: Place(values[name]).uri for name in PLACES if values.get(name)}
    job = Client.from_environment().submit(kind, values, after, priority)
    if as_json:
        return print_json(job)
    print(job["id"])
    print(f"`tench jobs watch {job['id']}` follows it.", file=sys.stderr)
    return 0


def _token_file(given: str | None) -> Path:
    return Path(given).expanduser() if given else home() / "tokens.json"


def _progress(job: dict[str, Any]) -> str:
    from cluster.display import progress_words
    from ingest.progress import Progress

    if job["error"]:
        return str(job["error"])
    return progress_words(Progress(**job["progress"])) if job["progress"] else ""


def print_json(value: Any) -> int:
    """One JSON object on standard output; the exit code 0."""
    print(json.dumps(value, indent=2, ensure_ascii=False))
    return 0
