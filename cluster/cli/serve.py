"""Command line of the service itself: serve, and its tokens."""

import os
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from cluster.cli.flags import Flat, home
from cluster.settings import ServeSettings

TokenFile = Annotated[str | None, Parameter(help="File of the hashes; HOME/tokens.json unless given.")]
SERVE_DEFAULTS = ServeSettings()

token = App(name="token", help="Tokens of the service: needed on any address but loopback.")


def add_to(app: App) -> None:
    """Hang these commands into the command line."""
    app.command(serve)
    app.command(token)


def serve(*, settings: Annotated[ServeSettings, Flat] = SERVE_DEFAULTS) -> int:
    """Serve jobs over HTTP, with a page to watch them; starts a Ray of its own unless one is named."""
    from cluster.serve import serve as serve_until_stopped

    if "home" not in settings.model_fields_set:
        settings = settings.model_copy(update={"home": str(home())})
    store = os.environ.pop("TENCH_STORE", None)  # Nothing that the service starts inherits its password.
    if settings.store is None and store:
        settings = settings.model_copy(update={"store": store})
    return serve_until_stopped(settings)


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


def _token_file(given: str | None) -> Path:
    return Path(given).expanduser() if given else home() / "tokens.json"
