"""Command line of datasets: list, show, remove."""

import sys
from typing import Annotated, Any

from cyclopts import App, Parameter

from cluster.cli.flags import Json, Server, StoreFlag, Switch, Yes, connect, home, print_json, store_place
from cluster.client import Client
from ingest.errors import RefusedError, UsageError

ID_LETTERS = 8
IdOrPlace = Annotated[
    str,
    Parameter(
        help="Id of a dataset of the service (eight characters of it will do), or a folder or address (s3://...) seen "
        "from here."
    ),
]

datasets = App(
    name="datasets",
    help="Datasets: list, show, remove.\n\n`list`, and DATASET given as an id, mean those under the roots of the service "
    "(--server, TENCH_SERVER), which needs to run. DATASET given as a folder or address is worked on from here, without a "
    "service: what uses it is then looked up in HOME (TENCH_HOME), its jobs and its runs.",
)


def add_to(app: App) -> None:
    """Hang these commands into the command line."""
    app.command(datasets)


@datasets.command(name="list")
def list_datasets(*, server: Server = None, json: Json = False) -> int:
    """List the sealed datasets under the service's roots."""
    found = connect(server).datasets()
    if json:
        return print_json({"datasets": found})
    for dataset in found:
        print(f"{dataset['dataset_id'][:16]}  {dataset['num_samples']:>9,} samples  {dataset['uri']}")
    return 0


@datasets.command
def show(dataset: IdOrPlace, *, server: Server = None, json: Json = False) -> int:
    """Show what is in a dataset: its splits, classes, sizes and statistics."""
    from cluster.cli.display import facts_lines
    from ingest.look import inspected, summary_lines

    if is_id(dataset):
        client = connect(server)
        facts = client.dataset(_found(client, dataset)["dataset_id"])
        lines = facts_lines(facts)
    else:
        facts = inspected(dataset)
        lines = summary_lines(facts)
    if json:
        return print_json(facts)
    print("\n".join(lines))
    return 0


@datasets.command
def rm(
    dataset: IdOrPlace,
    *,
    force: Annotated[bool, Switch] = False,
    yes: Yes = False,
    store: StoreFlag = None,
    server: Server = None,
    json: Json = False,
) -> int:
    """Remove a dataset: its manifest first, so that what is left is never taken for a whole one, then its other files.

    A dataset that a queued or running job uses is refused, with the jobs that use it; so is one that a stopped or failed
    job could go on with. Files that are no part of it stay, with their folders, and are named; links are not followed.
    If it is interrupted, the same command goes on.

    Parameters
    ----------
    force
        Also remove what a stopped or failed job could go on with.
    """
    if is_id(dataset):
        client = connect(server)
        found = _found(client, dataset)
        _confirm(found["uri"], yes)
        facts = client.remove_dataset(found["dataset_id"], found["uri"], force)
    else:
        facts = _remove_here(dataset, store_place(home(), store), force, yes)
    if json:
        return print_json(facts)
    from cluster.cli.display import facts_lines

    print("\n".join(facts_lines(facts)))
    for path in facts["left"]:
        print(f"! left, since it is no part of a dataset: {path}", file=sys.stderr)
    return 0


def is_id(dataset: str) -> bool:
    """Whether a dataset is named by its id, or by eight characters of it or more."""
    return ID_LETTERS <= len(dataset) <= 64 and not set(dataset) - set("0123456789abcdef")


def _found(client: Client, letters: str) -> dict[str, Any]:
    """The dataset of the service that the characters mean. Raises UsageError if it is not exactly one."""
    matching = [d for d in client.datasets() if d["dataset_id"].startswith(letters)]
    if len(matching) != 1:
        places = "".join(f"\n  {d['dataset_id'][:16]}  {d['uri']}" for d in matching)
        found = (
            f"{len(matching)} datasets of {client.server} are called so:{places}\ngive the folder of the one you mean"
        )
        raise UsageError(f"{letters}: {found}" if matching else f"{letters}: {client.server} has no such dataset; "
                         "`tench datasets list` shows them, and a folder of this name here is given as ./NAME")  # fmt: skip
    return matching[0]


def _remove_here(dataset: str, store: str, force: bool, yes: bool) -> dict[str, Any]:
    from cluster.upkeep.removal import belongings, refuse_used, remove
    from cluster.upkeep.works import read_works
    from ingest.storage import Place

    place = Place(dataset)
    parts = belongings(place)
    refuse_used(place, read_works(home() / "runs", store), force)
    _confirm(place.uri, yes)
    return remove(place, parts)


def _confirm(uri: str, yes: bool) -> None:
    """Have the dataset's name typed. Raises UsageError without a terminal, RefusedError if it is not typed."""
    name = uri.rsplit("/", 1)[-1]
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError(f"{uri}: is removed for good; give --yes, since there is no terminal to ask at")
    print(f"{uri} is removed for good. Type its name ({name}) to go on: ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip() != name:
        raise RefusedError(f"{uri}: not removed, since its name was not typed")
