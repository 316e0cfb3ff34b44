"""Routes of the datasets under the service's roots."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

from fastapi import FastAPI, Header, Query
from fastapi.responses import Response

from cluster.api import artifacts
from cluster.api.dataset_views import DatasetDetailView, DatasetsView, QuarantineView
from cluster.api.problems import Problem, problems
from cluster.api.routes_runs import PNG
from cluster.api.service import Service, png_response
from ingest.errors import TenchError
from ingest.look import describe

UNCHANGING = "private, max-age=3600"
"""The id in the address determines the dataset's bytes."""
OF_A_PICTURE: dict[int | str, dict[str, Any]] = {
    200: {"content": PNG},
    304: {"description": "The browser has this very picture."},
    **problems(404, 409, 422),
}
MOST_QUARANTINED = 200


def add_datasets(app: FastAPI, service: Service) -> None:
    """Look at datasets."""

    def found(dataset_id: str) -> dict[str, Any]:
        dataset = service.library.find(dataset_id)
        if dataset is None:
            raise Problem(404, f"There is no dataset {dataset_id!r} under {', '.join(service.roots.roots)}.")
        return dataset

    @app.get("/v1/datasets", response_model=DatasetsView)
    def list_datasets() -> dict[str, Any]:
        """The sealed datasets under the service's roots."""
        return {"datasets": service.library.datasets(), "unfinished": service.library.unfinished()}

    @app.get(
        "/v1/datasets/{dataset_id}", response_model=DatasetDetailView, response_model_exclude_unset=True,
        responses=problems(404),
    )  # fmt: skip
    def show_dataset(dataset_id: str) -> dict[str, Any]:
        """Everything that is known of a dataset: counts, settings, statistics, quarantine, classes.

        Of a damaged one: what its manifest states in short, and `damage` in words.
        """
        summary = found(dataset_id)
        try:
            return summary | describe(summary["uri"]) | {"damage": None}
        except TenchError as error:
            return summary | {"damage": error.message}

    @app.get("/v1/datasets/{dataset_id}/quarantine", response_model=QuarantineView, responses=problems(404, 409, 422))
    def quarantine(
        dataset_id: str,
        first: Annotated[int, Query(ge=0)] = 0,
        limit: Annotated[int, Query(ge=1, le=MOST_QUARANTINED)] = MOST_QUARANTINED,
    ) -> dict[str, Any]:
        """Pictures that are in no shard, and why; from number `first` on."""
        uri = found(dataset_id)["uri"]
        with _damage_told():
            return artifacts.quarantine_of(uri, first, limit)

    @app.get("/v1/datasets/{dataset_id}/quarantine/{split}/{row}.png", response_class=Response, responses=OF_A_PICTURE)
    def quarantined_picture(
        dataset_id: str, split: str, row: int, if_none_match: Annotated[str | None, Header()] = None
    ) -> Response:
        """What can be decoded of a picture in quarantine."""
        uri = found(dataset_id)["uri"]
        with _damage_told():
            return _kept(artifacts.quarantined_picture(uri, split, row), if_none_match)

    @app.get("/v1/datasets/{dataset_id}/{name}", response_class=Response, responses=OF_A_PICTURE)
    def dataset_picture(
        dataset_id: str, name: artifacts.DatasetPicture, if_none_match: Annotated[str | None, Header()] = None
    ) -> Response:
        """Pictures of a dataset: contact sheet, mean image, principal colours, what the loader makes of pictures."""
        uri = found(dataset_id)["uri"]
        with _damage_told():
            return _kept(artifacts.of_dataset(uri, name), if_none_match)


@contextmanager
def _damage_told() -> Iterator[None]:
    """A dataset that cannot be read is no fault of the service: a conflict, said in its own words."""
    try:
        yield
    except TenchError as error:
        raise Problem(409, error.message) from error


def _kept(data: bytes | None, known: str | None) -> Response:
    """A picture that a browser keeps; 304 without a body if it has this very one."""
    answer = png_response(data, UNCHANGING)
    answer.headers["ETag"] = tag = f'"{hashlib.sha256(bytes(answer.body)).hexdigest()[:32]}"'
    if known is not None and tag in known:
        return Response(status_code=304, headers={"ETag": tag, "Cache-Control": UNCHANGING})
    return answer
