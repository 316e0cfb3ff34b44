"""Pictures that could not be decoded: kept with their reason, never lost and never in a shard."""

import json
from dataclasses import asdict, dataclass

from ingest.pixels import BINDING
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


def verdict_path(split: str, row: int) -> str:
    """Where the verdict (.json) and the bytes (.bin) of a picture lie, without the extension."""
    return f"{FOLDER}/{split}-{row:08d}"


def put_verdict(dataset: Place, verdict: Verdict, data: bytes) -> Verdict:
    """Keep the verdict and the picture's bytes; the verdict that holds. One that is there already stays."""
    path = verdict_path(verdict.split, verdict.row)
    picture = f"{path}.bin"
    if not dataset.put_new(picture, data) and dataset.size(picture) != len(data):
        dataset.move(picture, f"damaged/{picture}")  # a loss of power has cut it
        dataset.put_new(picture, data)
    if dataset.put_new(f"{path}.json", json.dumps(asdict(verdict), indent=1, ensure_ascii=False).encode() + b"\n"):
        return verdict
    return read_verdict(dataset, f"{path}.json")


def read_verdict(dataset: Place, path: str) -> Verdict:
    """The verdict of a file in quarantine."""
    return Verdict(**json.loads(dataset.get(path)))


def binding_verdicts(dataset: Place, split: str, rows: range) -> dict[int, Verdict]:
    """Verdicts on these rows of a split that hold for every attempt, by row."""
    wanted = {f"{verdict_path(split, row)}.json" for row in rows}
    found = (read_verdict(dataset, f.path) for f in dataset.files(FOLDER) if f.path in wanted)
    return {verdict.row: verdict for verdict in found if verdict.code in BINDING}


def read_verdicts(dataset: Place) -> list[Verdict]:
    """All verdicts, by split and row."""
    files = [f.path for f in dataset.files(FOLDER) if f.path.endswith(".json")]
    return [read_verdict(dataset, path) for path in files]
