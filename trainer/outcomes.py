"""How the workers of an attempt ended: a file of each rank that has something to say, read by the driver and by workers.

RUN/workers/0001/00000.json        {"facts": {...}}, of rank 0
RUN/workers/0001/00003.json        {"error": "DamageError", "message": ...}, of any rank: the attempt is over
RUN/workers/0001/controller.json   the same of Ray Train's controller (`vigil.py`), while no worker was at work
"""

import json
from typing import Any

from ingest.errors import DamageError, Interrupted, RefusedError, TenchError, UsageError
from ingest.progress import to_json
from ingest.storage import Place

ERRORS: dict[str, type[TenchError]] = {
    e.__name__: e for e in (TenchError, UsageError, RefusedError, DamageError, Interrupted)
}
CONTROLLER = "controller"


def rank_name(rank: int) -> str:
    """The name under which a rank says how it ended."""
    return f"{rank:05d}"


def put_facts(place: Place, attempt: int, facts: dict[str, Any]) -> None:
    """Rank 0 has trained to the end."""
    _put(place, attempt, rank_name(0), {"facts": facts})


def put_error(place: Place, attempt: int, name: str, error: TenchError) -> None:
    """An error of ours ends the attempt; the first that a name puts stays."""
    _put(place, attempt, name, {"error": type(error).__name__, "message": error.message})


def found(place: Place, attempt: int) -> dict[str, Any] | None:
    """How the workers ended: an error of any of them goes before rank 0's facts. None while nobody has said anything."""
    told: list[dict[str, Any]] = [json.loads(place.get(f.path)) for f in place.files(f"workers/{attempt:04d}")]
    return next((o for o in told if "error" in o), told[0] if told else None)


def error_stands(place: Place, attempt: int) -> bool:
    """Whether this attempt has ended with an error of ours."""
    return "error" in (found(place, attempt) or {})


def facts_of(place: Place, attempt: int) -> dict[str, Any]:
    """What rank 0 brought back. Raises the error of a rank as what it was, TenchError if nobody said anything."""
    told = found(place, attempt)
    if told is None:
        raise TenchError(f"{place.uri}: the workers ended without saying how; see Ray's logs of the run")
    if "error" in told:
        raise ERRORS.get(told["error"], TenchError)(told["message"])
    facts: dict[str, Any] = told["facts"]
    return facts


def _put(place: Place, attempt: int, name: str, told: dict[str, Any]) -> None:
    place.put_new(f"workers/{attempt:04d}/{name}.json", to_json(told))
