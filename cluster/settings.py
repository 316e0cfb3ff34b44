"""What a person may ask the service for: one model a kind of job, made from the floors' own settings."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from ingest.settings import (
    Content,
    Execution,
    IngestSettings,
    RecentreSettings,
    RepairSettings,
    Settings,
    VerifySettings,
)
from trainer.settings import EvaluateSettings, TrainSettings

Uri = Annotated[str, StringConstraints(min_length=1, max_length=2000, pattern=r"^[^\x00-\x1f]+$")]
RunId = Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]{1,64}$")]


class IngestRequest(IngestSettings):
    """Convert a source into a dataset."""

    source: Annotated[Uri, Content]
    """Where the pictures lie: archives of ILSVRC-2012, -2010 or Fall 2011, Kaggle's ILSVRC/, Parquet, WebDataset,
    CIFAR-10, or class folders."""

    dataset: Annotated[Uri, Execution]
    """Folder of the new dataset."""


class VerifyRequest(VerifySettings):
    """Prove that a dataset is complete and undamaged."""

    dataset: Annotated[Uri, Execution]
    """Folder of the dataset."""


class RepairRequest(RepairSettings):
    """Give the damaged files of a dataset their recorded bytes again, from its source."""

    dataset: Annotated[Uri, Execution]
    """Folder of the dataset."""

    source: Annotated[Uri, Execution]
    """Folder of the source that the dataset was made of."""


class RecentreRequest(RecentreSettings):
    """Make a centred dataset of a raw one: each pixel minus the mean."""

    dataset: Annotated[Uri, Content]
    """Folder of the sealed dataset of raw payloads."""

    out: Annotated[Uri, Execution]
    """Folder of the new dataset."""


class RetryRequest(Settings):
    """Try the quarantined pictures of a sealed dataset again, in a new dataset."""

    dataset: Annotated[Uri, Content]
    """Folder of the sealed dataset."""

    source: Annotated[Uri, Content]
    """Folder of the source, as it is now."""

    out: Annotated[Uri, Execution]
    """Folder of the new dataset."""


class TrainRequest(TrainSettings):
    """Train a network on a dataset."""

    dataset: Annotated[Uri, Execution]
    """Folder of the dataset."""


class EvaluateRequest(EvaluateSettings):
    """Measure the error of a trained network."""

    dataset: Annotated[Uri, Execution]
    """Folder of the dataset."""

    run: Annotated[RunId, Content]
    """Id of the training job whose newest checkpoint is evaluated."""


class EvaluateHereRequest(EvaluateSettings):
    """Measure trained networks, on their own or together: runs and files anywhere, so never a job of the service."""

    dataset: Annotated[Uri, Execution]
    """Folder of the dataset."""

    runs: Annotated[tuple[Uri, ...], Content, Field(min_length=1)]
    """Folders of the training runs, whose probabilities are averaged."""

    predictions: Annotated[Uri | None, Execution] = None
    """Parquet file of the five best classes of every sample."""

    submission: Annotated[Uri | None, Execution] = None
    """Text file in the format of the ILSVRC server."""


Kind = Literal["ingest", "verify", "repair", "recentre", "train", "evaluate"]
KINDS: dict[str, type[Settings]] = {
    "ingest": IngestRequest,
    "verify": VerifyRequest,
    "repair": RepairRequest,
    "recentre": RecentreRequest,
    "train": TrainRequest,
    "evaluate": EvaluateRequest,
}


PLACES = ("source", "dataset", "out", "initial")
"""Settings that name a place: held to the service's roots."""


class JobRequest(BaseModel):
    """The body of `POST /v1/jobs`."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    kind: str
    """ingest, verify, repair, recentre, train or evaluate."""

    settings: dict[str, Any]
    """The kind's own settings; `GET /v1/kinds` shows each kind's schema."""

    after: RunId | None = None
    """Id of a job that has to succeed first."""

    priority: Annotated[int, Field(ge=-100, le=100)] = 0
    """Jobs of higher priority start first."""

    name: Annotated[str, StringConstraints(max_length=200, pattern=r"^[^\x00-\x1f]*$")] = ""
    """What people call it; without one, its kind and places are shown."""


class ServeSettings(Settings):
    """The service."""

    host: Annotated[str, Execution] = "127.0.0.1"
    """Address to listen on; any but loopback needs a token."""

    port: Annotated[int, Execution, Field(ge=0, le=65535)] = 8400
    """Port to listen on; 0 takes a free one and prints it."""

    home: Annotated[str, Execution] = "~/.tench"
    """Folder of the service: its store, its runs and, unless roots are given, its data."""

    root: Annotated[tuple[str, ...], Execution] = ()
    """Folder that jobs may read from and write to (repeatable); HOME/data unless given."""

    token_file: Annotated[str | None, Execution] = None
    """File of the token hashes; HOME/tokens.json unless given."""

    require_token: Annotated[bool, Execution] = False
    """Ask for a token on loopback as well (a machine with other users)."""

    ray_address: Annotated[str | None, Execution] = None
    """Address of a Ray cluster's dashboard; without it the service starts a Ray of its own on loopback."""

    allow_open_ray: Annotated[bool, Execution] = False
    """Use a Ray cluster although it answers anyone, without a token."""

    num_cpus: Annotated[int | None, Execution, Field(ge=1, le=100_000)] = None
    """CPUs of the service's own Ray; all cores of this machine unless told."""
