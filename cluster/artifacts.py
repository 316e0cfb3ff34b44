"""Pictures that the service hands out: of a training's run folder, of a dataset. PNG bytes, or None while there is none."""

from collections.abc import Callable

import numpy as np

from cluster.jobs import Job
from ingest import look
from ingest.dataset import Dataset
from ingest.errors import TenchError
from ingest.png import png_bytes
from ingest.storage import Place


def of_job(job: Job, run: Place, name: str) -> bytes | None:
    """A picture of a job by its name; None if this kind of job has none of it, or not yet."""
    from trainer import figures

    if job.kind == "train" and name in ("kernels.png", "curves.png"):
        return figures.kernels_png(run.uri) if name == "kernels.png" else figures.curves_png(run.uri)
    if job.kind == "ingest" and name in ("mean.png", "sheet.png") and job.state == "succeeded":
        return of_dataset(job.settings["dataset"], "mean.png" if name == "mean.png" else "contact.png")
    return None


def of_dataset(uri: str, name: str) -> bytes | None:
    """contact.png, mean.png or pca.png of a dataset; None if it is there no longer."""
    draw: dict[str, Callable[[str], bytes]] = {
        "contact.png": lambda dataset: png_bytes(look.contact_sheet(dataset)),
        "mean.png": lambda dataset: png_bytes(np.rint(Dataset.open(dataset).mean).astype(np.uint8)),
        "pca.png": lambda dataset: png_bytes(look.pca_swatches(dataset)),
    }
    try:
        return draw[name](uri)
    except TenchError:
        return None
