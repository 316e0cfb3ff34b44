"""What a person may ask the service for: one model a kind of job, made from the floors' own settings."""

import json
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator

from cluster.jobs import MAX_ATTEMPTS
from ingest.settings import (
    Content,
    Execution,
    IngestSettings,
    RecentreSettings,
    RepairSettings,
    Settings,
    Uri,
    VerifySettings,
)
from trainer.settings import EvaluateSettings, TrainSettings

RAY_ADDRESS = r"^https?://(\[[0-9A-Fa-f:.]+\]|[^/\s:@\[\]]+)(:[0-9]{1,5})?/?$"
WebHost = Annotated[str, StringConstraints(to_lower=True, pattern=r"^[A-Za-z0-9.-]{1,253}(:[0-9]{1,5})?$")]
RUN_ID = re.compile(r"[a-z0-9-]{1,64}")
RunId = Annotated[str, StringConstraints(pattern=rf"^{RUN_ID.pattern}$")]


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
RUN_BESIDE = re.compile(rf"run:({RUN_ID.pattern})")
"""`initial` may name a run by its folder beside this run's, which is what the service calls a job's id."""


def places_of(request: Settings) -> dict[str, str]:
    """The places that a request names, by setting."""
    named = {name: uri for name in PLACES if (uri := getattr(request, name, None)) is not None}
    return {name: uri for name, uri in named.items() if name != "initial" or run_beside(request) is None}


def run_beside(request: Settings) -> str | None:
    """The id of the run that a training's `initial` names as `run:ID`, None if it names none."""
    named = RUN_BESIDE.fullmatch(getattr(request, "initial", None) or "")
    return None if named is None else named[1]


class JobRequest(BaseModel):
    """The body of `POST /v1/jobs`."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    kind: Annotated[str, Field(json_schema_extra={"enum": list(KINDS)})]
    """ingest, verify, repair, recentre, train or evaluate."""

    settings: dict[str, Any]
    """The kind's own settings; `GET /v1/kinds` shows each kind's schema."""

    after: RunId | None = None
    """Id of a job that has to succeed first."""

    priority: Annotated[int, Field(ge=-100, le=100)] = 0
    """Jobs of higher priority start first."""

    max_attempts: Annotated[int, Field(ge=1, le=1000)] = MAX_ATTEMPTS
    """Attempts, if processes are lost: each goes on from what is finished. Stops and ends of the service do not count."""

    name: Annotated[str, StringConstraints(max_length=200, pattern=r"^[^\x00-\x1f]*$")] = ""
    """What people call it; without one, its kind and places are shown."""

    @field_validator("settings", "name")
    @classmethod
    def _refuse_what_is_no_text(cls, value: Any) -> Any:
        """JSON can name halves of surrogate pairs, which no file and no database can hold."""
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            half = ascii(error.object[error.start])
            raise ValueError(f"is no text: it holds {half}, half of a surrogate pair") from None
        return value


class ServeSettings(Settings):
    """The service."""

    host: Annotated[str, Execution] = "127.0.0.1"
    """Address to listen on; any but loopback needs a token."""

    port: Annotated[int, Execution, Field(ge=0, le=65535)] = 8400
    """Port to listen on; 0 takes a free one and prints it."""

    home: Annotated[str, Execution] = "~/.tench"
    """Folder of the service: its store, its runs and, unless roots are given, its data."""

    store: Annotated[str | None, Execution] = None
    """Where jobs are remembered: a file of SQLite, or postgresql://USER@HOST/NAME; HOME/store.sqlite unless given. A URL
    with a password belongs into the environment (TENCH_STORE), which other users cannot list."""

    root: Annotated[tuple[str, ...], Execution] = ()
    """Folder that jobs may read from and write to (repeatable); HOME/data unless given."""

    allow_source: Annotated[tuple[WebHost, ...], Execution] = ()
    """Web server whose archives jobs may read, HOST or HOST:PORT (repeatable); none unless given. Redirects to
    other hosts are not followed."""

    token_file: Annotated[str | None, Execution] = None
    """File of the token hashes; HOME/tokens.json unless given."""

    require_token: Annotated[bool, Execution] = False
    """Ask for a token on loopback as well (a machine with other users)."""

    ray_address: Annotated[str | None, Execution, Field(pattern=RAY_ADDRESS)] = None
    """Address of a Ray cluster's dashboard, as in http://head:8265; without it the service starts a Ray of its own on
    loopback."""

    allow_open_ray: Annotated[bool, Execution] = False
    """Use a Ray cluster although it answers anyone, without a token."""

    num_cpus: Annotated[int | None, Execution, Field(ge=1, le=100_000)] = None
    """CPUs of the service's own Ray; all cores of this machine unless told."""

    posts_per_minute: Annotated[int, Execution, Field(ge=1, le=1_000_000)] = 600
    """Jobs, stops and resumes that one token (or, without tokens, one address) may ask for; as many at once."""

    reads_per_second: Annotated[int, Execution, Field(ge=1, le=1_000_000)] = 500
    """Other requests of one token or address; four times as many at once."""

    max_streams: Annotated[int, Execution, Field(ge=1, le=10_000)] = 500
    """Streams of events and logs that may be open at once."""

    max_streams_per_caller: Annotated[int, Execution, Field(ge=1, le=10_000)] = 300
    """Streams of one token or address among these."""
