"""A sealed dataset of raw payloads -> a new one of centred payloads: what a training that subtracts the mean reads.

A centred payload is int16 (side, side, 3), little-endian: 128 x (pixel - mean) rounded to the nearest whole number,
halves to even, where `mean` is the parent's float64 mean image. The values fit (128 x 255 is 32,640), are exact to
1/256, and give the pixel back. Plan, keys, labels, splits, sums and quarantine are the parent's.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from crc32c import crc32c

from ingest.centring import centred
from ingest.convert import Made, ShardReport, Writing, part_path, put_shard, shard_path
from ingest.dataset import Dataset
from ingest.earlier import finished, set_aside
from ingest.errors import DamageError, RefusedError
from ingest.formats import FORMATS, Record
from ingest.manifest import MANIFEST, Manifest, read_manifest
from ingest.pixel_stats import PixelSums
from ingest.pixels import pixel_fingerprint
from ingest.plan import PLAN, Plan, plan_bytes
from ingest.progress import RunWriter
from ingest.quarantine import Verdict, put_verdict, read_verdict, verdict_path
from ingest.seal import damaged_shards, seal
from ingest.settings import RecentreSettings
from ingest.storage import Place
from ingest.synsets import Synset
from ingest.target import begun_plan, refuse_inside

if TYPE_CHECKING:
    from ingest.pool import Converted


@dataclass(frozen=True)
class Recentring(Writing):
    """What all shards share: where the raw dataset lies."""

    parent: str


@dataclass(frozen=True)
class RecentreTask:
    """What an actor needs to make one centred shard of one raw shard."""

    job: Recentring
    split: str
    number: int
    num_samples: int
    isolated: bool = False

    def make(self) -> Made:
        """Read the raw shard, centre it, put it. Raises DamageError if the parent is damaged, TenchError."""
        parent, shard = _opened(self.job.parent), (self.split, self.number)
        sums = None
        if self.split == "train":
            sums = PixelSums.from_bytes(parent.checked_bytes(part_path(*shard, "npz")))
        return put_shard(self.job, shard, list(self._records(parent)), sums, list(self._verdicts(parent)))

    def isolate(self) -> "RecentreTask":
        """The same: nothing is decoded here that could end its process."""
        return self

    def _records(self, parent: Dataset) -> Iterator[Record]:
        raw = shard_path(self.split, self.number, FORMATS[parent.format].EXTENSION)
        shard = memoryview(parent.place.get(raw))
        for row in _rows(parent.checked_bytes(part_path(self.split, self.number, "arrow"))):
            payload = bytes(shard[row["offset"] : row["offset"] + row["length"]])
            if crc32c(payload) != row["crc32c"]:
                raise DamageError(
                    f"{parent.place.name(raw)}: the payload of {row['key']} at {row['offset']} does not have its "
                    f"checksum; `tench verify {parent.uri}` lists all damage"
                )
            pixels = np.frombuffer(payload, np.uint8).reshape(parent.mean.shape)
            wnid = row["key"].rpartition("/")[0]
            yield Record(row["key"], row["label"], wnid, centred(pixels, parent.mean), row["width"], row["height"])

    def _verdicts(self, parent: Dataset) -> Iterator[Verdict]:
        report = ShardReport.from_bytes(parent.checked_bytes(part_path(self.split, self.number, "json")))
        for bad in report.quarantined:
            path = verdict_path(self.split, bad["row"])
            parent.checked_bytes(f"{path}.json")
            verdict = read_verdict(parent.place, f"{path}.json")
            yield put_verdict(self.job.dataset, verdict, parent.checked_bytes(f"{path}.bin"))


def recentre(dataset: str, out: str, settings: RecentreSettings, run: RunWriter) -> dict[str, Any]:
    """Make a centred dataset of a raw one; go on where an earlier run stopped. The caller has connected Ray.

    Returns the final facts. Raises RefusedError (parent not raw, target not empty or of another parent),
    DamageError (the parent is damaged), Interrupted.
    """
    started = time.monotonic()
    parent, place = Dataset.open(dataset), Place(out)
    plan = _plan(parent, place)
    _refuse_other(place, plan)
    if place.exists(MANIFEST):
        run.event("phase", "The dataset is sealed already: nothing to do.")
        return _facts(place, read_manifest(place), started)
    place.put_new(PLAN, plan_bytes(plan.record))
    for split in plan.entries:
        path = f"plan/entries-{split}.arrow"
        place.put_new(path, parent.checked_bytes(path))
    reports = _made(parent, place, plan, settings, run)
    damaged, read_back = damaged_shards(place, reports)
    if damaged:
        set_aside(place, damaged, run)
        reports = _made(parent, place, plan, settings, run)
    run.event("phase", "All shards are written; sealing: index, statistics, manifest.")
    manifest = seal(place, plan, reports, parent.manifest.layout, read_back)
    run.event("sealed", f"Sealed: dataset {manifest.dataset_id[:16]}.", dataset_id=manifest.dataset_id)
    return _facts(place, manifest, started)


@lru_cache(1)
def _opened(uri: str) -> Dataset:
    """The parent, opened once by each process: its mean image has some megabytes."""
    return Dataset.open(uri)


def _rows(data: bytes) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pa.ipc.open_file(pa.py_buffer(data)).read_all().to_pylist()
    return rows


def _plan(parent: Dataset, place: Place) -> Plan:
    """The parent's plan, with the payload `centered` and the parent's id."""
    if parent.payload != "raw":
        raise RefusedError(
            f"{parent.uri}: holds {parent.payload} payloads; only a dataset of raw payloads can be centred: "
            "`tench ingest SOURCE DATASET --payload raw` makes one"
        )
    refuse_inside(place, parent.place)
    record = json.loads(parent.checked_bytes(PLAN))
    record |= {"settings": {**record["settings"], "payload": "centered"}, "parent": parent.dataset_id}
    entries = {
        split: pa.ipc.open_file(pa.py_buffer(parent.checked_bytes(f"plan/entries-{split}.arrow"))).read_all()
        for split in parent.split_names
    }
    return Plan(record, entries, tuple(Synset(c.wnid, c.words) for c in parent.classes))


def _refuse_other(place: Place, plan: Plan) -> None:
    """Raise RefusedError if the target is neither empty nor begun from the same parent."""
    found = begun_plan(place)
    if found is None or found == plan.record:
        return
    if (other := found.get("parent")) != plan.record["parent"]:
        made_of = f"was made of dataset {other}" if other else "was made of pictures"
        raise RefusedError(f"{place.uri}: {made_of}, not of {plan.record['parent']}; give a new or empty folder")
    raise RefusedError(f"{place.name(PLAN)}: is not the plan of its parent; give a new or empty folder")


def _made(parent: Dataset, place: Place, plan: Plan, settings: RecentreSettings, run: RunWriter) -> list[ShardReport]:
    """Make every shard that has no report yet; the reports of all, in plan order."""
    from ingest.pool import Pool

    reports = finished(place, plan)
    job = Recentring(place, plan.settings, tuple(plan.wnids), parent.uri)
    tasks = [
        RecentreTask(job, split, shard, parent.manifest.splits[split].shards[shard].num_samples)
        for split, shard in plan.shards()
        if (split, shard) not in reports
    ]

    def tell() -> None:
        done = sum(r.num_samples + len(r.quarantined) for r in reports.values())
        run.progress("centring", done, plan.num_entries, "samples", force=not tasks)

    def on_done(done: "Converted") -> None:
        reports[done.report.split, done.report.number] = done.report
        tell()

    tell()
    if tasks:
        num_actors = min(settings.num_actors or len(tasks), len(tasks))
        with Pool(num_actors, pixel_fingerprint(), run) as pool:
            pool.convert_all(tasks, on_done)
    return [reports[shard] for shard in plan.shards()]


def _facts(place: Place, manifest: Manifest, started: float) -> dict[str, Any]:
    return {
        "dataset": place.uri,
        "dataset_id": manifest.dataset_id,
        "content_id": manifest.content_id,
        "parent": manifest.parent,
        "num_samples": sum(s.num_samples for s in manifest.splits.values()),
        "num_quarantined": len(manifest.quarantine),
        "splits": {
            name: {"num_samples": s.num_samples, "num_shards": len(s.shards)} for name, s in manifest.splits.items()
        },
        "seconds": round(time.monotonic() - started, 2),
    }
