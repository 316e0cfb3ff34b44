"""Command line that sends jobs to the service: `tench submit KIND`, one command a kind, its flags the kind's settings."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from cyclopts import App, Parameter

from cluster.cli.flags import Flat, Json, Server, Switch, connect, print_json
from cluster.jobs import MAX_ATTEMPTS
from cluster.settings import KINDS, JobRequest, places_of
from ingest.settings import Settings
from ingest.storage import Place


def _help_of(field: str) -> Parameter:
    return Parameter(help=JobRequest.model_fields[field].description)


@dataclass(frozen=True)
class Sending:
    """How a job is sent, beside its settings."""

    after: Annotated[str | None, _help_of("after")] = None
    priority: Annotated[int, _help_of("priority")] = 0
    name: Annotated[str, _help_of("name")] = ""
    max_attempts: Annotated[int, _help_of("max_attempts")] = MAX_ATTEMPTS
    idempotency_key: Annotated[
        str | None, Parameter(help="Sent again under the same key, it is the same job; a new key unless given.")
    ] = None
    dry_run: Annotated[
        bool, Switch, Parameter(help="Only show what the job would do and need; nothing is started.")
    ] = False
    watch: Annotated[bool, Switch, Parameter(help="Follow the job to its end, as `tench jobs watch`.")] = False
    server: Server = None
    json: Json = False


SENDING = Sending()
submit = App(name="submit", help="Send a job to the service (--server, TENCH_SERVER, or http://127.0.0.1:8400).")


def add_to(app: App) -> None:
    """Hang these commands into the command line."""
    app.command(submit)


def _submit_command(kind: str, model: type[Settings]) -> Callable[..., int]:
    """`tench submit KIND`: its flags and its help are those of the kind's model."""

    def command(*, settings: Settings, how: Annotated[Sending, Flat] = SENDING) -> int:
        return _submit(kind, settings, how)

    command.__annotations__["settings"] = Annotated[model, Flat]
    command.__doc__ = model.__doc__
    return command


for _kind, _settings_model in KINDS.items():
    submit.command(_submit_command(_kind, _settings_model), name=_kind)


def _submit(kind: str, settings: Settings, how: Sending) -> int:
    client = connect(how.server)
    # A path is meant as seen from here; the service works elsewhere.
    values = settings.model_dump(mode="json") | {name: Place(uri).uri for name, uri in places_of(settings).items()}
    if how.dry_run:
        return _show_dry_run(client.dry_run(kind, values), how.json)
    job = client.submit(
        kind, values, after=how.after, priority=how.priority, name=how.name, max_attempts=how.max_attempts,
        key=how.idempotency_key,
    )  # fmt: skip
    if how.watch:
        from cluster.cli.watching import watch_job

        print(f"job {job['id']}", file=sys.stderr)
        return watch_job(client, job["id"], how.json)
    if how.json:
        return print_json(job)
    print(job["id"])
    print(f"`tench jobs watch {job['id']}` follows it.", file=sys.stderr)
    return 0


def _show_dry_run(facts: dict[str, Any], as_json: bool) -> int:
    from cluster.cli.display import facts_lines

    if as_json:
        return print_json(facts)
    needs = facts.get("needs")
    told = {f"needs {name.removesuffix('_bytes')}": value for name, value in needs.items()} if needs else {}
    print("\n".join(["Nothing was started (--dry-run).", *facts_lines({**told, **facts})]))
    return 0
