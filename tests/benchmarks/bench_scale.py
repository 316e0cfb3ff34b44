"""Ingest at the size of all of ImageNet: planning 14,197,122 entries, listing tars of tars, feeding 1,000 actors."""

import io
import resource
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.ray_session import own_ray
from ingest.convert import Made, ShardReport, ShardTask, part_path, shard_path, shard_tasks
from ingest.pixels import pixel_fingerprint
from ingest.plan import Plan, make_plan
from ingest.progress import RunWriter
from ingest.settings import IngestSettings
from ingest.sources import Entry, Source
from ingest.sources.source import Listing
from ingest.sources.tar_index import tar_members
from ingest.storage import Place
from ingest.synsets import Synset
from ingest.tally import Tally
from tests.benchmarks import report
from tests.benchmarks.material import scratch

ENTRIES, CLASSES = 14_197_122, 21_841
ACTORS, PROCESSES = 1000, 2
SHARD_S = 2.0
TAR_CLASSES, TAR_PICTURES = 100, 1000


class Synthetic(Source):
    """As many entries as Fall 2011 has, in as many classes; no file behind them."""

    layout = "synthetic"

    @classmethod
    def claims(cls, place: Place, listing: Listing) -> set[str]:
        return set()

    def __init__(self, place: Place, listing: Listing) -> None:
        super().__init__(place, listing)
        self._wnids = [f"n{1_000_000 + 523 * number:08d}" for number in range(CLASSES)]

    def splits(self) -> tuple[str, ...]:
        return ("train",)

    def synsets(self) -> list[Synset]:
        return [Synset(wnid) for wnid in self._wnids]

    def entries(self, split: str) -> Iterator[Entry]:
        for number, wnid in enumerate(self._wnids):
            for picture in range(ENTRIES // CLASSES + (number < ENTRIES % CLASSES)):
                yield Entry(f"{wnid}/{wnid}_{37 * picture}", wnid, "fall11_whole.tar", picture << 17, 60_000 + picture)


def planned() -> tuple[Plan, dict[str, float]]:
    """The plan of all of them, and what it took."""
    started, cpu = time.perf_counter(), time.process_time()
    plan = make_plan(Synthetic(Place("/nowhere"), Listing({}, frozenset())), IngestSettings(), "0" * 64)
    figures = {
        "planning_seconds": round(time.perf_counter() - started, 1),
        "planning_cpu_seconds": round(time.process_time() - cpu, 1),
        "planning_peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 2),
    }
    assert plan.num_entries == ENTRIES
    return plan, figures


@dataclass(frozen=True)
class Nothing(ShardTask):
    """A shard that is no work: what is left is the driver's."""

    def make(self) -> Made:
        index, sums = part_path(self.split, self.number, "arrow"), part_path(self.split, self.number, "npz")
        path = shard_path(self.split, self.number, "arrow")
        hashes = {index: "0" * 64, sums: "0" * 64}
        return Made(ShardReport(self.split, self.number, path, "0" * 64, 1, self.num_samples, "0" * 64, hashes), False)


def fed(plan: Plan, run: RunWriter) -> dict[str, float]:
    """CPU of the driver for each shard, with 1,000 shards in hand; a real run's tasks, events and progress."""
    from ingest import actor, pool  # Ray reads its environment when it is imported

    converters = [actor.start_actor(number, pixel_fingerprint())[1].handle for number in range(PROCESSES)]

    def shared(number: int, fingerprint: str, spared: frozenset[str]) -> Any:
        handle = converters[number % PROCESSES]
        return handle.where.remote(), actor.Actor(number, handle)

    pool.start_actor = shared  # type: ignore[attr-defined, assignment]
    pool.num_cpus_granted = lambda: ACTORS  # type: ignore[attr-defined]
    source = Synthetic(Place("/nowhere"), Listing({}, frozenset()))
    shards = list(plan.shards())
    tasks = shard_tasks(source, Place("/nowhere/dataset"), plan, plan.settings, shards)
    bare = (Nothing(t.job, t.split, t.number, t.first_row, t.num_samples, t.rows) for t in tasks)
    tally = Tally(Place("/nowhere/dataset"), plan.num_entries, "0")
    started, cpu = time.perf_counter(), time.process_time()
    with pool.Pool(ACTORS, pixel_fingerprint(), run) as working:
        working.convert_all(bare, lambda done: tally.converted(done, run))
        seconds, spent = time.perf_counter() - started, time.process_time() - cpu
    assert tally.samples == plan.num_entries
    return {
        "shards": len(shards),
        "shards_per_s": round(len(shards) / seconds),
        "driver_cpu_ms_per_shard": round(1000 * spent / len(shards), 3),
        "actors_that_one_driver_core_feeds": round(SHARD_S * len(shards) / spent),
        "actors_fed_at_the_rate_seen": round(SHARD_S * len(shards) / seconds),
    }


def indexed(folder: Path) -> dict[str, float]:
    """Entries a second when the headers of a tar of tars are read, from this machine's disk."""
    path = folder / "outer.tar"
    with tarfile.open(path, "w") as outer:
        for number in range(TAR_CLASSES):
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w") as archive:
                for picture in range(TAR_PICTURES):
                    info = tarfile.TarInfo(f"n{number:08d}_{picture}.JPEG")
                    info.size = 2048
                    archive.addfile(info, io.BytesIO(bytes(2048)))
            info = tarfile.TarInfo(f"n{number:08d}.tar")
            info.size = inner.tell()
            inner.seek(0)
            outer.addfile(info, inner)
    place = Place(folder)
    started = time.perf_counter()
    found = sum(
        sum(1 for _ in tar_members(place, path.name, member.offset, member.length))
        for member in tar_members(place, path.name)
    )
    assert found == TAR_CLASSES * TAR_PICTURES
    return {"tar_entries": found, "tar_entries_per_s": round(found / (time.perf_counter() - started))}


def main() -> None:
    """Measure and write the result file."""
    plan, figures = planned()
    with scratch() as folder, own_ray(PROCESSES + 1):
        figures |= indexed(folder)
        figures |= fed(plan, RunWriter.begin(Place(folder / "run"), "ingest", {}))
    report.write(
        "scale",
        {"entries": plan.num_entries, "classes": CLASSES, **figures},
        f"Synthetic entries. Feeding: {PROCESSES} processes stand for {ACTORS} actors, each with a shard in hand that "
        f"is no work; CPU of the driver's process, all its threads. A shard of 1,024 pictures is taken to last "
        f"{SHARD_S} s (the JPEG shard of bench_ingest on this machine); the rate seen is shared with the processes.",
    )


if __name__ == "__main__":
    main()
