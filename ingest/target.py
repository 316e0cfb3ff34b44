"""Where a new dataset may begin: outside of what it is made of, and in an empty place or where its plan lies."""

import json
from pathlib import Path
from typing import Any

from ingest.errors import RefusedError
from ingest.plan import PLAN
from ingest.storage import Place


def refuse_inside(place: Place, outside: Place, what: str = "") -> None:
    """Raise RefusedError if a new dataset would lie in a folder that has to stay as it is; `what` names that folder."""
    if place.is_local and outside.is_local:
        inner, outer = Path(place.uri).resolve(), Path(outside.uri).resolve()
        if inner == outer or outer in inner.parents:
            raise RefusedError(f"{place.uri}: lies inside {what}{outside.uri}; choose a folder outside of it")


def begun_plan(place: Place) -> dict[str, Any] | None:
    """plan.json of a dataset that was begun there; None in an empty place. Raises RefusedError for any other."""
    occupied = bool(place.files() or place.folders())  # before the plan: another run may be putting it
    if place.exists(PLAN):
        record: dict[str, Any] = json.loads(place.get(PLAN))
        return record
    if occupied:
        raise RefusedError(f"{place.uri}: is not empty and holds no dataset of Tench; give a new or empty folder")
    return None
