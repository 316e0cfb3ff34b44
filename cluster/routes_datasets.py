"""Routes of the datasets under the service's roots."""

from typing import Any, Literal

from fastapi import FastAPI
from fastapi.responses import Response

from cluster import artifacts
from cluster.problems import Problem
from cluster.service import Service, png_response
from ingest.look import describe

UNCHANGING = "max-age=60"


def add_datasets(app: FastAPI, service: Service) -> None:
    """Look at datasets."""

    def found(dataset_id: str) -> dict[str, Any]:
        dataset = service.library.find(dataset_id)
        if dataset is None:
            raise Problem(404, f"There is no dataset {dataset_id!r} under {', '.join(service.roots.roots)}.")
        return dataset

    @app.get("/v1/datasets")
    def list_datasets() -> dict[str, Any]:
        """The sealed datasets under the service's roots."""
        return {"datasets": service.library.datasets()}

    @app.get("/v1/datasets/{dataset_id}")
    def show_dataset(dataset_id: str) -> dict[str, Any]:
        """Everything that is known of a dataset: counts, settings, statistics, quarantine, classes."""
        summary = found(dataset_id)
        return summary | describe(summary["uri"])

    @app.get("/v1/datasets/{dataset_id}/{name}")
    def dataset_picture(dataset_id: str, name: Literal["contact.png", "mean.png", "pca.png"]) -> Response:
        """Pictures of a dataset: contact sheet, mean image, principal colours."""
        return png_response(artifacts.of_dataset(found(dataset_id)["uri"], name), UNCHANGING)
