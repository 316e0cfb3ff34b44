"""The fixed command of every job: `python -m cluster.entry`.

It reads what to do from the run folder that TENCH_RUN names, checks it again on this node, connects to the Ray that
started it, and leaves with the command's exit code.
"""

import os
import sys
from contextlib import ExitStack
from importlib import metadata
from typing import Any

from pydantic import ValidationError

from cluster.access import Roots
from cluster.commands import execute, needs_ray
from cluster.ray_session import join_ray
from cluster.settings import KINDS, RUN_ID, EvaluateRequest, places_of
from cluster.words import misfit_words
from ingest.errors import RefusedError, TenchError
from ingest.manifest import read_manifest
from ingest.progress import RunReader, RunWriter
from ingest.settings import Settings
from ingest.storage import Place

WITH_TORCH = ("train", "evaluate")
"""Kinds whose numbers torch makes."""


def main() -> int:
    """Run the job of TENCH_RUN, attempt TENCH_ATTEMPT; its exit code."""
    try:
        place, attempt = _run_place(os.environ)
        reader = RunReader(place)
        record = reader.request() | reader.allowed(attempt)
        facts = attempt_facts(record["kind"], record["settings"])
        run = RunWriter.begin(place, record["kind"], {}, attempt=attempt, **facts)
    except (TenchError, FileNotFoundError, KeyError, ValueError) as error:
        print(f"tench: {error}", file=sys.stderr)
        return getattr(error, "exit_code", 3)
    try:
        request = _with_granted_device(read_request(record))
    except TenchError as error:
        run.finish("failed", error.exit_code, error.message)
        return error.exit_code
    with ExitStack() as stack:
        if needs_ray(request):
            stack.enter_context(join_ray())
        outcome = execute(request, run, _trained_run(request, place), is_job=True)
    print(f"tench: {outcome.error or outcome.state}", file=sys.stderr)
    return outcome.exit_code


def attempt_facts(kind: str, settings: dict[str, Any]) -> dict[str, Any]:
    """What the record of an attempt keeps of its start: the settings that it was asked for, and the versions at work."""
    names = ("tench", "torch") if kind in WITH_TORCH else ("tench",)
    return {"settings": settings, "versions": {name: metadata.version(name) for name in names}}


def read_request(record: dict[str, Any]) -> Settings:
    """The request of a run folder, its places held to the service's roots. Raises RefusedError."""
    if record["kind"] not in KINDS:
        raise RefusedError(f"request.json: kind {record['kind']!r}; expected one of {', '.join(KINDS)}")
    model = KINDS[record["kind"]]
    try:
        request = model.model_validate(record["settings"])
    except ValidationError as error:
        words = "; ".join(said for _, said in misfit_words(error, model, naming=str))
        raise RefusedError(f"request.json: {words}") from None
    roots = Roots(record.get("roots", []), record.get("web_hosts", []))
    for name, uri in places_of(request).items():
        roots.refuse_outside(uri, name)
    if pinned := record.get("pinned"):
        _refuse_another(Place(request.model_dump()["dataset"]), pinned)
    return request


def _with_granted_device(request: Settings) -> Settings:
    """A device that was left to Tench is the one that the job was granted, whatever else the cluster has by now."""
    if getattr(request, "device", None) != "auto" or "TENCH_GPUS" not in os.environ:
        return request
    return request.model_copy(update={"device": "gpu" if int(os.environ["TENCH_GPUS"]) else "cpu"})


def _refuse_another(dataset: Place, pinned: dict[str, str]) -> None:
    """Refuse a dataset that is not the one which the job before this one made."""
    found = read_manifest(dataset).dataset_id
    if found != pinned["dataset_id"]:
        raise RefusedError(
            f"dataset {dataset.uri}: is now {found[:16]}, but job {pinned['by']} made {pinned['dataset_id'][:16]}, which "
            "this job was pinned to; put that one back, or ask for a new job"
        )


def _run_place(environment: Any) -> tuple[Place, int]:
    uri = environment["TENCH_RUN"]
    if not RUN_ID.fullmatch(uri.rstrip("/").rsplit("/", 1)[-1]):
        raise RefusedError(f"TENCH_RUN={uri}: its last part is no run id ([a-z0-9-], at most 64)")
    return Place(uri), int(environment["TENCH_ATTEMPT"])


def _trained_run(request: Settings, place: Place) -> str | None:
    """The folder of the run that an evaluation measures: beside this one."""
    if not isinstance(request, EvaluateRequest):
        return None
    return f"{place.uri.rsplit('/', 1)[0]}/{request.run}"


if __name__ == "__main__":
    sys.exit(main())
