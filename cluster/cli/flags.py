"""What commands of the command line share: flags of one name and text everywhere, HOME, the client, JSON."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

if TYPE_CHECKING:
    from cluster.client import Client

Flat = Parameter(name="*", negative="")
Switch = Parameter(negative="")
Json = Annotated[bool, Parameter(negative="", help="Print one JSON object on standard output.")]
JsonLines = Annotated[bool, Parameter(negative="", help="Print what comes as lines of JSON on standard output.")]
Server = Annotated[str | None, Parameter(help="Address of the service; TENCH_SERVER unless given.")]
Yes = Annotated[bool, Parameter(negative="", help="Do it, and do not ask.")]
StoreFlag = Annotated[
    str | None,
    Parameter(
        help="As `tench serve --store`; unless given, TENCH_STORE, or where the last service of HOME kept its jobs."
    ),
]
JobId = Annotated[str, Parameter(help="Id of the job; `tench jobs list` shows them.")]


def home() -> Path:
    """The folder of runs and of the service: TENCH_HOME, or ~/.tench."""
    return Path(os.environ.get("TENCH_HOME", "~/.tench")).expanduser().absolute()


def store_place(home: Path, given: str | None = None) -> str:
    """Where a service of HOME remembers its jobs: --store, TENCH_STORE, where its last service did, HOME/store.sqlite."""
    from cluster.engines import noted_place

    return given or os.environ.get("TENCH_STORE") or noted_place(home) or str(home / "store.sqlite")


def connect(server: str | None) -> "Client":
    """A client of the service that a flag or the environment names, with the token of TENCH_TOKEN_FILE."""
    from cluster.client import Client

    return Client.from_environment(server)


def print_json(value: Any) -> int:
    """One JSON object on standard output; the exit code 0."""
    print(json.dumps(value, indent=2, ensure_ascii=False))
    return 0


def print_json_line(value: Any) -> None:
    """One JSON object on a line of its own, at once."""
    print(json.dumps(value, ensure_ascii=False), flush=True)
