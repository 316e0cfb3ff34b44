"""Pictures that could not be decoded: kept with their reason, never lost and never in a shard."""

import json
from dataclasses import asdict, dataclass

from ingest.storage import Place

FOLDER = "quarantine"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why a picture is not in the dataset. `code` is one of `pixels.CODES`; `row` is its row in the plan."""

    split: str
    row: int
    key: str
    code: str
    message: str
    size: int


def put_verdict(dataset: Place, verdict: Verdict, data: bytes) -> None:
    """Keep the verdict and the picture's bytes. A verdict that is there already stays: every attempt finds the same."""
    path = f"{FOLDER}/{verdict.split}-{verdict.row:08d}"
    dataset.put_new(f"{path}.bin", data)
    dataset.put_new(f"{path}.json", json.dumps(asdict(verdict), indent=1, ensure_ascii=False).encode() + b"\n")


def read_verdicts(dataset: Place) -> list[Verdict]:
    """All verdicts, by split and row."""
    files = [f.path for f in dataset.files(FOLDER) if f.path.endswith(".json")]
    return [Verdict(**json.loads(dataset.get(path))) for path in files]
