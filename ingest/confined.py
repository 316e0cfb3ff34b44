"""Links held to their place: for jobs of a service no link leads out of a place, unless into one of the service's roots.

The roots stand in the environment (a JSON list), where the actors of a job have them, too; without, links are followed
wherever they lead, as a person's own command does.
"""

import json
import os
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from ingest.errors import RefusedError

ROOTS = "TENCH_ROOTS"


def refuse_astray(place: str, path: str | Path = "") -> None:
    """Raise RefusedError if a path of a local place (its folder) lies elsewhere once links are followed."""
    told = os.environ.get(ROOTS)
    if told is None:
        return
    found = os.path.realpath(os.path.join(place, path))
    if not any(lies_in(found, base) for base in (os.path.realpath(place), *_resolved(told))):
        raise RefusedError(
            f"{os.path.join(place, path)}: a link leads from here to {found}, outside of the service's roots "
            f"({', '.join(json.loads(told))}); put the file itself there, or add a root"
        )


def refuse_links_astray(place: str, paths: Iterable[str]) -> None:
    """The same for many paths relative to a place: each folder is looked at once, and each file that is a link."""
    if ROOTS not in os.environ:
        return
    folders: set[str] = set()
    for path in paths:
        folder = os.path.dirname(path)
        if folder not in folders:
            refuse_astray(place, folder)
            folders.add(folder)
        if os.path.islink(os.path.join(place, path)):
            refuse_astray(place, path)


@lru_cache(maxsize=8)
def _resolved(told: str) -> tuple[str, ...]:
    return tuple(os.path.realpath(root) for root in json.loads(told) if "://" not in root)


def lies_in(path: str, base: str) -> bool:
    """Whether a path is a folder or lies below it; both with their links resolved."""
    return path == base or path.startswith(base.rstrip("/") + "/")
