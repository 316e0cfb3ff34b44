"""The route that removes a dataset under the service's roots."""

from typing import Annotated, Any

from fastapi import FastAPI, Query

from cluster.api.problems import Problem, problems
from cluster.api.service import Service
from cluster.api.views import View
from cluster.upkeep.removal import belongings, remove, used_words, users
from cluster.upkeep.works import all_jobs, works_of
from ingest.errors import TenchError
from ingest.storage import Place

COPY = Query(description="Folder or address of the copy that is meant, where there are several.")
FORCE = Query(description="Also remove what a stopped or failed job could go on with.")


class RemovedView(View):
    """A dataset that was removed."""

    dataset_id: str | None
    """Its id."""

    removed: str
    """Where it lay."""

    num_files: int
    """Files that were removed."""

    bytes: int
    """Their bytes."""

    left: list[str]
    """Files and links that lay among them and are no part of a dataset: they stay."""


def add_removal(app: FastAPI, service: Service) -> None:
    """Remove datasets."""

    @app.delete("/v1/datasets/{dataset_id}", response_model=RemovedView, responses=problems(403, 404, 409, 422))
    def remove_dataset(
        dataset_id: str, uri: Annotated[str | None, COPY] = None, force: Annotated[bool, FORCE] = False
    ) -> dict[str, Any]:
        """Remove a dataset, its manifest first. Of several copies, `?uri=` says which.

        A dataset that a queued or running job uses is a 409 that names the jobs; so is one that a stopped or failed job
        could go on with, unless `?force=true`. Files that are no part of a dataset stay and are listed in `left`.
        """
        place = _copy_of(service, dataset_id, uri)
        try:
            service.roots.refuse_outside(place.uri, "uri")
        except TenchError as error:
            raise Problem(403, error.message, [("uri", error.message)]) from None
        parts = belongings(place)
        works = works_of(all_jobs(service.store), service.runs.local_path())
        if said := users(place, works, force):
            raise Problem(409, used_words(place, said))
        try:
            return remove(place, parts)
        finally:
            service.library.expire()


def _copy_of(service: Service, dataset_id: str, uri: str | None) -> Place:
    """The place of a dataset. Raises Problem if there is none of this id, or more than one and none is named."""
    copies = [d["uri"] for d in service.library.datasets() if d["dataset_id"] == dataset_id]
    chosen = [copy for copy in copies if uri in (None, copy)]
    if not chosen:
        where = f"at {uri}" if uri and copies else f"under {', '.join(service.roots.roots)}"
        raise Problem(404, f"There is no dataset {dataset_id!r} {where}.")
    if len(chosen) > 1:
        raise Problem(409, f"Dataset {dataset_id!r} lies at {' and at '.join(chosen)}; name one of them as ?uri=.")
    return Place(chosen[0])
