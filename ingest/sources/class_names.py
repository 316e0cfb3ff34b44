"""Class names that a source states itself: what may be one, and which are wnids."""

import re
from collections.abc import Sequence

from ingest.errors import RefusedError

WNID = re.compile(r"n\d{8}")
BEGINS_WITH_WNID = re.compile(r"(n\d{8})[_/]")


def checked_names(names: Sequence[str], where: str) -> tuple[str, ...]:
    """The names, if each can stand in a key: not empty, without slashes, once. Raises RefusedError naming `where`."""
    first: dict[str, int] = {}
    for position, name in enumerate(names):
        if not name or "/" in name:
            raise RefusedError(
                f"{where}: class {position} is named {name!r}; a class name must not be empty nor hold a slash, since "
                "keys are <class>/<name>; rename it"
            )
        if (other := first.setdefault(name, position)) != position:
            raise RefusedError(
                f"{where}: classes {other} and {position} are both named {name!r}; each class needs a name of its own"
            )
    return tuple(names)
