"""One shard: read its entries, rescale, encode, sum, write. A plain function; Ray only carries it to a core.

The puts of a shard are create-only and in this order: verdicts, shard, sums, index rows, report. All bytes
follow from the plan alone, so a second writer puts the same and finds that out.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import pyarrow as pa
from crc32c import crc32c

from ingest.errors import TenchError
from ingest.formats import FORMATS, Record, WrittenShard
from ingest.isolated import Decode, IsolatedDecoder
from ingest.pixel_stats import PixelSums
from ingest.pixels import PictureError, encode, rescale
from ingest.plan import Plan, PlannedEntry, planned_entries, rows_bytes
from ingest.quarantine import Verdict, binding_verdicts, put_verdict
from ingest.settings import PlannedSettings
from ingest.sources import ReadEntries, Source
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
class Writing:
    """Where shards go and how they are written; what a kind of job adds to this stands in its own class."""

    dataset: Place
    settings: PlannedSettings
    wnids: tuple[str, ...]


@dataclass(frozen=True)
class Conversion(Writing):
    """What all shards of a conversion share; it is sent to the actors once."""

    source: Place
    read: ReadEntries
    decode: Decode = rescale


@dataclass(frozen=True)
class ShardTask:
    """What an actor needs to make one shard. `rows` are its entries in plan order, as an Arrow stream."""

    job: Conversion
    split: str
    number: int
    first_row: int
    num_samples: int
    rows: bytes
    isolated: bool = False
    """Decode in a child process: one of the pictures ended or stalled its process before."""

    @property
    def entries(self) -> list[PlannedEntry]:
        """The entries, good and bad, each with its row in the split."""
        return planned_entries(self.rows, self.first_row)

    def make(self) -> "Made":
        """Make the shard, on the core where this is called."""
        return convert_shard(self)

    def isolate(self) -> "ShardTask":
        """The same shard, decoded in a child process."""
        return replace(self, isolated=True)


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


@dataclass(frozen=True)
class Made:
    """A shard that is there now, and whether another writer had put it before."""

    report: ShardReport
    already_there: bool


def shard_path(split: str, number: int, extension: str) -> str:
    """Where a shard lies: `train/00042.arrow`."""
    return f"{split}/{number:05d}.{extension}"


def part_path(split: str, number: int, extension: str) -> str:
    """Where a shard's index rows (.arrow), sums (.npz) and report (.json) lie: `parts/train-00042.json`."""
    return f"parts/{split}-{number:05d}.{extension}"


def shard_tasks(
    source: Source, dataset: Place, plan: Plan, settings: PlannedSettings, shards: Iterable[tuple[str, int]]
) -> Iterator[ShardTask]:
    """The tasks of some shards (split, number) of a plan, each built when it is asked for."""
    job = Conversion(dataset, settings, tuple(plan.wnids), source.place, source.read)
    for split, number in shards:
        first, rows = plan.shard_rows(split, number)
        yield ShardTask(job, split, number, first, len(rows), rows_bytes(rows))


def convert_shard(task: ShardTask) -> Made:
    """Make a shard and put it, its sums, its index rows and its report.

    Raises TenchError if another writer put other bytes, or if the source changed while it was read.
    """
    job, entries = task.job, task.entries
    records: list[Record] = []
    verdicts: list[Verdict] = []
    sums = PixelSums(job.settings.side) if task.split == "train" else None
    bound = binding_verdicts(job.dataset, task.split, range(task.first_row, task.first_row + task.num_samples))
    with ExitStack() as stack:
        decode = stack.enter_context(IsolatedDecoder(job.decode, job.settings)) if task.isolated else job.decode
        for planned, data in zip(entries, job.read(job.source, [p.entry for p in entries]), strict=True):
            if planned.row in bound:
                verdicts.append(bound[planned.row])
                continue
            try:
                picture = decode(data, job.settings)
            except PictureError as error:
                verdicts.append(_condemned(task, planned, data, error))
                continue
            if sums is not None:
                sums.add_planes(picture.planes)
            payload = encode(picture.image, job.settings)
            records.append(_record(planned, payload, picture.width, picture.height))
    return put_shard(job, (task.split, task.number), records, sums, verdicts)


def content_sha256(samples: Iterable[tuple[str, int, int, int]]) -> str:
    """Over (key, label, bytes of the payload, its CRC32C) of each sample: the same in every file format.

    The payloads themselves are in the shard's own SHA-256; hashing raw ones twice would take 5 % of a conversion.
    """
    digest = hashlib.sha256()
    for key, label, length, checksum in samples:
        digest.update(f"{key}\t{label}\t{length}\t{checksum}\n".encode())
    return digest.hexdigest()


def _condemned(task: ShardTask, planned: PlannedEntry, data: bytes, error: PictureError) -> Verdict:
    """Put the verdict and the bytes of a bad picture; the verdict that holds."""
    verdict = Verdict(task.split, planned.row, planned.entry.key, error.code, error.message, len(data))
    return put_verdict(task.job.dataset, verdict, data)


def _record(planned: PlannedEntry, payload: bytes, width: int, height: int) -> Record:
    return Record(planned.entry.key, planned.label, planned.entry.wnid, payload, width, height)


def put_shard(
    job: Writing,
    shard: tuple[str, int],
    records: Sequence[Record],
    sums: PixelSums | None,
    verdicts: Sequence[Verdict],
) -> Made:
    """Put a shard (split, number), its sums, its index rows and its report.

    Raises TenchError if another writer put other bytes.
    """
    format_ = FORMATS[job.settings.format]
    written: WrittenShard = format_.write(records, job.settings.payload, job.wnids)
    path = shard_path(*shard, format_.EXTENSION)
    is_new = _put_same(job.dataset, path, written.pieces)
    parts = {shard_path(*shard, extension): data for extension, data in written.side_files.items()}
    if sums is not None:
        parts[part_path(*shard, "npz")] = sums.to_bytes()
    checksums = [crc32c(r.payload) for r in records]
    parts[part_path(*shard, "arrow")] = _index_rows(records, written, checksums)
    for name, data in parts.items():
        _put_same(job.dataset, name, [memoryview(data)])
    sha256 = hashlib.sha256()
    for piece in written.pieces:
        sha256.update(piece)
    report = ShardReport(
        *shard, path, sha256.hexdigest(), sum(map(len, written.pieces)), len(records),
        content_sha256((r.key, r.label, len(r.payload), crc) for r, crc in zip(records, checksums, strict=True)),
        {n: hashlib.sha256(d).hexdigest() for n, d in parts.items()},
        [{"row": v.row, "key": v.key, "code": v.code} for v in verdicts],
    )  # fmt: skip
    _put_same(job.dataset, part_path(*shard, "json"), [memoryview(report.to_bytes())])
    return Made(report, not is_new)


def _put_same(dataset: Place, path: str, pieces: Sequence[memoryview]) -> bool:
    """Put a file; False if another writer put the same bytes before. A piece of them that was cut is set aside."""
    if dataset.put_new(path, pieces):
        return True
    found, data = dataset.get(path), b"".join(pieces)
    if len(found) < len(data) and found == data[: len(found)]:
        dataset.move(path, f"damaged/{path}")
        return _put_same(dataset, path, pieces)
    if found != data:
        raise TenchError(
            f"{dataset.name(path)}: another writer of this plan put other bytes than this one; two machines convert "
            "pictures differently, or the source changed between them. Compare their imaging libraries "
            "(`tench inspect` shows the dataset's), remove the dataset's folder and start again"
        )
    return False


def _index_rows(records: Sequence[Record], shard: WrittenShard, checksums: Sequence[int]) -> bytes:
    columns = [
        pa.array(shard.offsets, pa.uint64()),
        pa.array([len(r.payload) for r in records], pa.uint32()),
        pa.array([r.label for r in records], pa.int32()),
        pa.array(checksums, pa.uint32()),
        pa.array([r.width for r in records], pa.uint32()),
        pa.array([r.height for r in records], pa.uint32()),
        pa.array([r.key for r in records], pa.string()),
    ]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, INDEX_PART) as writer:
        writer.write_batch(pa.record_batch(columns, schema=INDEX_PART))
    return bytes(sink.getvalue())
