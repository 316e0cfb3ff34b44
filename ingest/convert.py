"""One shard: read its entries, rescale, encode, sum, write. A plain function; Ray only carries it to a core.

The puts of a shard are create-only and in this order: verdicts, shard, sums, index rows, report. All bytes
follow from the plan alone, so a second writer puts the same and finds that out.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import google_crc32c
import numpy as np
import pyarrow as pa

from ingest.errors import TenchError
from ingest.formats import FORMATS, Record, WrittenShard
from ingest.pixel_stats import PixelSums
from ingest.pixels import PictureError, encode, rescale
from ingest.plan import PlannedEntry
from ingest.quarantine import Verdict, put_verdict
from ingest.settings import PlannedSettings
from ingest.sources import ReadEntries
from ingest.storage import Place

INDEX_PART = pa.schema(
    [
        ("offset", pa.uint64()),
        ("length", pa.uint32()),
        ("label", pa.int32()),
        ("crc32c", pa.uint32()),
        ("width", pa.uint32()),
        ("height", pa.uint32()),
        ("key", pa.string()),
    ]
)


@dataclass(frozen=True)
class ShardTask:
    """What an actor needs to make one shard."""

    source: Place
    read: ReadEntries
    dataset: Place
    settings: PlannedSettings
    wnids: tuple[str, ...]
    split: str
    number: int
    entries: tuple[PlannedEntry, ...]

    def make(self) -> "ShardReport":
        """Make the shard, on the core where this is called."""
        return convert_shard(self)


@dataclass(frozen=True)
class ShardReport:
    """What is in a shard: facts that the plan determines, and nothing else (no times, no hosts)."""

    split: str
    number: int
    path: str
    sha256: str
    size: int
    num_samples: int
    content_sha256: str
    part_sha256: dict[str, str]
    """SHA-256 of the index rows, of the sums (training only) and of the side files, by path."""
    quarantined: list[dict[str, Any]] = field(default_factory=list)
    """Row, key and code of each entry that is not in the shard."""

    def to_bytes(self) -> bytes:
        return json.dumps(asdict(self), indent=1, sort_keys=True, ensure_ascii=False).encode() + b"\n"

    @classmethod
    def from_bytes(cls, data: bytes) -> "ShardReport":
        return cls(**json.loads(data))


def shard_path(split: str, number: int, extension: str) -> str:
    """Where a shard lies: `train/00042.arrow`."""
    return f"{split}/{number:05d}.{extension}"


def part_path(split: str, number: int, extension: str) -> str:
    """Where a shard's index rows (.arrow), sums (.npz) and report (.json) lie: `parts/train-00042.json`."""
    return f"parts/{split}-{number:05d}.{extension}"


def convert_shard(task: ShardTask) -> ShardReport:
    """Make a shard and put it, its sums, its index rows and its report.

    Raises TenchError if another writer put other bytes, or if the source changed while it was read.
    """
    records: list[Record] = []
    verdicts: list[Verdict] = []
    sums = PixelSums(task.settings.side) if task.split == "train" else None
    for planned, data in zip(task.entries, _bytes(task), strict=True):
        try:
            picture = rescale(data, task.settings)
        except PictureError as error:
            entry = planned.entry
            verdicts.append(Verdict(task.split, planned.row, entry.key, error.code, error.message, len(data)))
            put_verdict(task.dataset, verdicts[-1], data)
            continue
        if sums is not None:
            sums.add(picture.pixels)
        payload = encode(picture.pixels, task.settings)
        records.append(_record(planned, payload, picture.width, picture.height))
    return _put_all(task, records, sums, verdicts)


def content_sha256(samples: Iterable[tuple[str, int, bytes]]) -> str:
    """Over keys, labels and payloads: the same in every file format."""
    digest = hashlib.sha256()
    for key, label, payload in samples:
        digest.update(f"{key}\t{label}\t{len(payload)}\n".encode())
        digest.update(payload)
    return digest.hexdigest()


def _bytes(task: ShardTask) -> Iterator[bytes]:
    return task.read(task.source, [p.entry for p in task.entries])


def _record(planned: PlannedEntry, payload: bytes, width: int, height: int) -> Record:
    return Record(planned.entry.key, planned.label, planned.entry.wnid, payload, width, height)


def _put_all(
    task: ShardTask, records: Sequence[Record], sums: PixelSums | None, verdicts: Sequence[Verdict]
) -> ShardReport:
    format_ = FORMATS[task.settings.format]
    shard: WrittenShard = format_.write(records, task.settings.payload, task.wnids)
    path = shard_path(task.split, task.number, format_.EXTENSION)
    _put_same(task.dataset, path, shard.data)
    parts = {shard_path(task.split, task.number, extension): data for extension, data in shard.side_files.items()}
    if sums is not None:
        parts[part_path(task.split, task.number, "npz")] = sums.to_bytes()
    parts[part_path(task.split, task.number, "arrow")] = _index_rows(records, shard)
    for name, data in parts.items():
        _put_same(task.dataset, name, memoryview(data))
    report = ShardReport(
        task.split, task.number, path, hashlib.sha256(shard.data).hexdigest(), len(shard.data), len(records),
        content_sha256((r.key, r.label, r.payload) for r in records),
        {n: hashlib.sha256(d).hexdigest() for n, d in parts.items()},
        [{"row": v.row, "key": v.key, "code": v.code} for v in verdicts],
    )  # fmt: skip
    _put_same(task.dataset, part_path(task.split, task.number, "json"), memoryview(report.to_bytes()))
    return report


def _put_same(dataset: Place, path: str, data: memoryview) -> None:
    """Put a file, or find that another writer put the same bytes. A piece of them that was cut is set aside."""
    if dataset.put_new(path, data):
        return
    found = dataset.get(path)
    if len(found) < len(data) and found == data[: len(found)]:
        dataset.move(path, f"damaged/{path}")
        _put_same(dataset, path, data)
    elif found != data:
        raise TenchError(
            f"{dataset.name(path)}: another writer of this plan put other bytes than this one; two machines convert "
            "pictures differently, or the source changed between them. Compare their imaging libraries "
            "(`tench inspect` shows the dataset's), remove the dataset's folder and start again"
        )


def _index_rows(records: Sequence[Record], shard: WrittenShard) -> bytes:
    columns = [
        pa.array(shard.offsets, pa.uint64()),
        pa.array([len(r.payload) for r in records], pa.uint32()),
        pa.array([r.label for r in records], pa.int32()),
        pa.array(np.array([google_crc32c.value(r.payload) for r in records], np.uint32), pa.uint32()),
        pa.array([r.width for r in records], pa.uint32()),
        pa.array([r.height for r in records], pa.uint32()),
        pa.array([r.key for r in records], pa.string()),
    ]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, INDEX_PART) as writer:
        writer.write_batch(pa.record_batch(columns, schema=INDEX_PART))
    return bytes(sink.getvalue())
