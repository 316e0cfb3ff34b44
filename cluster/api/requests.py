"""A request for a job, checked: kind, settings, places, parent; what is admitted here becomes a row of the store."""

import hashlib
import json
import time
from typing import Any

from obstore.exceptions import BaseError
from pydantic import ValidationError

from cluster.access import Roots
from cluster.api.problems import Problem
from cluster.api.turns import Turns
from cluster.commands import part_of, with_run_beside
from cluster.jobs import Job
from cluster.ledger import Capacity, needs_of, never_fits
from cluster.settings import KINDS, EvaluateRequest, IngestRequest, JobRequest, TrainRequest, places_of, run_beside
from cluster.store import Key, Store
from cluster.words import misfit_words
from ingest.errors import TenchError
from ingest.manifest import read_manifest
from ingest.progress import new_run_id
from ingest.settings import IngestSettings, Settings
from ingest.storage import REMOTE_SCHEMES, Place
from ingest.words import first_line
from trainer.settings import TrainSettings

UNPROCESSABLE = 422
MAX_KEY_LENGTH = 200
_forecasting = Turns("dry runs are being worked out", waiting=3)
"""A source is listed and planned for one: of millions of pictures that takes minutes, and memory."""


def checked_settings(request: JobRequest, store: Store, roots: Roots) -> Settings:
    """The kind's own settings. Raises Problem naming the fields at fault."""
    model = KINDS.get(request.kind)
    if model is None:
        raise _at("kind", f"kind {request.kind!r}: expected one of {', '.join(KINDS)}")
    try:
        settings = model.model_validate(request.settings)
    except ValidationError as error:
        said = misfit_words(error, model, naming=str)
        raise Problem(UNPROCESSABLE, "; ".join(words for _, words in said), said) from None
    settings = settings.model_copy(update=_checked_places(settings, roots))
    if isinstance(settings, EvaluateRequest):
        _refuse_untrained(store, settings.run, "run")
    if (run := run_beside(settings)) is not None:
        _refuse_untrained(store, run, "initial")
    if request.after is not None and store.job(request.after) is None:
        raise _at("after", f"after {request.after}: there is no job of this id")
    return settings


def _refuse_untrained(store: Store, run: str, field: str) -> None:
    trained = store.job(run)
    if trained is None or trained.kind != "train":
        raise _at(field, f"{field} {run}: there is no training job of this id")


def new_job(request: JobRequest, settings: Settings, caller: str) -> Job:
    """The row of a new job."""
    now = time.time()
    return Job(
        id=new_run_id(request.kind), kind=request.kind, name=request.name, state="queued",
        settings=settings.model_dump(mode="json"), after=request.after, priority=request.priority, asked_by=caller,
        max_attempts=request.max_attempts,
        created_at=now, moved_at=now,
    )  # fmt: skip


def key_of(header: str | None, request: JobRequest, caller: str) -> Key | None:
    """The Idempotency-Key of a request. Raises Problem for one that is too long."""
    if header is None:
        return None
    if not 0 < len(header) <= MAX_KEY_LENGTH:
        raise Problem(UNPROCESSABLE, f"Idempotency-Key: has {len(header)} characters; expected 1 to {MAX_KEY_LENGTH}")
    body = json.dumps(request.model_dump(mode="json", exclude_defaults=True), sort_keys=True)
    return Key(caller, header, hashlib.sha256(body.encode()).hexdigest())


def dry_run(request: JobRequest, settings: Settings, capacity: Capacity | None, runs: Place) -> dict[str, Any]:
    """What the job would do: its settings, what it needs, and the floor's own forecast. Nothing is written."""
    values = settings.model_dump(mode="json")
    facts: dict[str, Any] = {"kind": request.kind, "settings": values}
    if capacity is not None:
        needs = needs_of(request.kind, values, capacity)
        facts["needs"] = {"cpus": needs.cpus, "gpus": needs.gpus, "memory_bytes": needs.memory}
        facts["never"] = never_fits(request.kind, values, needs, capacity)
    try:
        with _forecasting:
            return facts | _forecast(settings, values, runs)
    except TenchError as error:
        raise Problem(UNPROCESSABLE, error.message) from error
    except (OSError, BaseError) as error:
        raise Problem(UNPROCESSABLE, f"cannot be read by the service: {first_line(error)}") from error


def _forecast(settings: Settings, values: dict[str, Any], runs: Place) -> dict[str, Any]:
    if isinstance(settings, IngestRequest):
        from ingest.run import plan_only

        return plan_only(settings.source, settings.dataset, part_of(settings, IngestSettings))
    if isinstance(settings, TrainRequest):
        from trainer.launch import plan_only as plan_training

        request = with_run_beside(settings, runs.inside("this-one"))
        return plan_training(settings.dataset, part_of(request, TrainSettings))
    manifest = read_manifest(Place(values["dataset"]))
    return {
        "num_files": len(manifest.files) + len(manifest.derived) + 1,
        "splits": {name: s.num_samples for name, s in manifest.splits.items()},
    }


def _checked_places(settings: Settings, roots: Roots) -> dict[str, str]:
    """The places of a request in full, each inside a root."""
    checked = {}
    for name, uri in places_of(settings).items():
        if not uri.startswith(("/", *REMOTE_SCHEMES)):
            raise _at(name, f"{name} {uri}: expected a full path (/data/...) or an address (s3://...)")
        try:
            roots.refuse_outside(uri, name)
            checked[name] = Place(uri).uri
        except TenchError as error:
            raise Problem(403, error.message, [(name, error.message)]) from None
    return checked


def _at(field: str, words: str) -> Problem:
    return Problem(UNPROCESSABLE, words, [(field, words)])
