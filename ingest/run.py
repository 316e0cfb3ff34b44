"""The whole conversion: what `tench ingest` and an ingest job call."""

import os
import shutil
import time
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ingest.convert import ShardReport, shard_tasks
from ingest.earlier import finished, set_aside, set_cut_verdicts_aside
from ingest.errors import RefusedError
from ingest.manifest import MANIFEST, Manifest, read_manifest
from ingest.pixels import PictureError, encode, imaging_library, pixel_fingerprint, rescale
from ingest.plan import (
    PLAN,
    Plan,
    differences,
    entries_bytes,
    make_plan,
    plan_bytes,
    planned,
    planned_entries,
    rows_bytes,
)
from ingest.progress import RunWriter
from ingest.seal import damaged_shards, seal
from ingest.settings import IngestSettings
from ingest.sources import Source, detect
from ingest.storage import Place
from ingest.tally import Tally
from ingest.target import begun_plan, refuse_inside
from ingest.words import counted

if TYPE_CHECKING:
    from ingest.pool import Converted

_Reports = list[ShardReport]
TIMED_SAMPLES = 24
STALE_STAGING_S = 3600
REBUILDS = 2
BYTES_PER_PIXEL = {"raw": 3.0, "jpeg": 0.6}
"""Space that is asked for: for JPEGs a generous bound, that of quality 90."""
SUM_BYTES_PER_PIXEL = 12
"""What a training shard's sums take."""


def ingest(source: str, dataset: str, settings: IngestSettings, run: RunWriter) -> dict[str, Any]:
    """Convert a source into a sealed dataset; go on where an earlier run of the same plan stopped.

    The caller has connected Ray. Returns the final facts (`dataset_id`, `content_id`, `num_samples` ...).
    Raises RefusedError (source, target or plan do not fit), BudgetError (too many bad pictures), Interrupted.
    """
    started = time.monotonic()
    opened, place = _open_both(source, dataset)
    if not place.exists(MANIFEST):
        _refuse_read_only(place)
    plan = _planned(opened, place, settings, run)
    if place.exists(MANIFEST):
        run.event("phase", "The dataset is sealed already: nothing to do.")
        return _facts(place, read_manifest(place), 0, started)
    _refuse_full_disk(place, plan)
    _put_plan(place, plan)
    _sweep_staging(place)
    set_cut_verdicts_aside(place, run)
    _say_imaging(run)
    tally = Tally(place, plan.num_entries, settings.max_bad)
    reports = _convert_missing(opened, plan, settings, run, tally)
    run.event("phase", "All shards are written; sealing: index, statistics, manifest.")
    tally.tell(run, "sealing", force=True)
    for _ in range(REBUILDS):
        damaged, read_back = damaged_shards(place, reports)
        if not damaged:
            break
        set_aside(place, damaged, run)
        again = Tally(place, plan.num_entries, settings.max_bad)
        reports = _convert_missing(opened, plan, settings, run, again)
        tally.converted_now += again.converted_now
    manifest = seal(place, plan, reports, opened.layout, read_back)
    run.event("sealed", f"Sealed: dataset {manifest.dataset_id[:16]}.", dataset_id=manifest.dataset_id)
    return _facts(place, manifest, tally.converted_now, started)


def plan_only(source: str, dataset: str, settings: IngestSettings) -> dict[str, Any]:
    """What a run would do (`--dry-run`): layout, counts, shards, and bytes and hours from a few timed samples."""
    opened, place = _open_both(source, dataset)
    plan = make_plan(opened, settings, pixel_fingerprint())
    _refuse_other_plan(place, plan)
    sample_s, sample_bytes, bad = _timed(opened, plan)
    actors = settings.num_actors or os.cpu_count() or 1
    return {
        "layout": opened.layout,
        "source": opened.place.uri,
        "dataset": place.uri,
        "num_classes": len(plan.wnids),
        "splits": {s: {"num_entries": len(t), "num_shards": plan.num_shards(s)} for s, t in plan.entries.items()},
        "plan_hash": plan.record["plan_hash"],
        "num_actors": actors,
        "estimated_bytes": int(sample_bytes * plan.num_entries),
        "estimated_hours": round(sample_s * plan.num_entries / actors / 3600, 4),
        "timed_samples": min(TIMED_SAMPLES, plan.num_entries),
        "bad_among_timed": bad,
        "imaging": imaging_library(),
    }


def _open_both(source: str, dataset: str) -> tuple[Source, Place]:
    place = Place(dataset)
    if not place.can_list:
        raise RefusedError(f"{place.uri}: a web server is read only; give a folder, s3://, gs:// or az://")
    opened = detect(source)
    refuse_inside(place, opened.place, "the source ")
    return opened, place


def _planned(source: Source, dataset: Place, settings: IngestSettings, run: RunWriter) -> Plan:
    """The plan of this run, which is that of the dataset if one was begun."""
    run.event("phase", f"Listing {source.place.uri}: {source.layout}.", layout=source.layout)
    for note in source.notes:
        run.event("warning", note)
    plan = make_plan(source, settings, pixel_fingerprint())
    _refuse_other_plan(dataset, plan)
    num_shards = sum(plan.num_shards(split) for split in plan.entries)
    run.event(
        "planned",
        f"{counted(plan.num_entries, 'picture')} in {counted(len(plan.wnids), 'class')}, {counted(num_shards, 'shard')}.",
        splits=plan.record["splits"], num_shards=num_shards, plan_hash=plan.record["plan_hash"],
    )  # fmt: skip
    return plan


def _put_plan(dataset: Place, plan: Plan) -> None:
    """Put the plan first, and twice: the second put shows that the store refuses to overwrite."""
    data = plan_bytes(plan.record)
    dataset.put_new(PLAN, data)
    if dataset.put_new(PLAN, data):
        raise RefusedError(
            f"{dataset.uri}: this store overwrote {PLAN} where it should have refused; two runs could spoil each "
            "other here. Use a store with conditional puts, or a local folder"
        )
    for split, table in plan.entries.items():
        dataset.put_new(f"plan/entries-{split}.arrow", entries_bytes(table))


def _refuse_other_plan(dataset: Place, plan: Plan) -> None:
    found = begun_plan(dataset)
    if found is not None and (said := differences(found, plan.record)):
        raise RefusedError(
            f"{dataset.uri}: was begun with another plan: {'; '.join(said)}. Give the same settings and source, "
            "or another folder"
        )


def _convert_missing(source: Source, plan: Plan, settings: IngestSettings, run: RunWriter, tally: Tally) -> _Reports:
    """Make every shard that has no report yet; the reports of all, in plan order."""
    from ingest.pool import Pool

    dataset = tally.dataset
    reports = finished(dataset, plan)
    for report in reports.values():
        tally.count(report)
    tally.refuse_over_budget()
    tally.tell(run, "converting", force=True)

    def on_done(done: "Converted") -> None:
        reports[done.report.split, done.report.number] = done.report
        tally.converted(done, run)

    missing = [shard for shard in plan.shards() if shard not in reports]
    if missing:
        num_actors = min(settings.num_actors or len(missing), len(missing))
        tasks = shard_tasks(source, dataset, plan, planned(settings, source), missing)
        with Pool(num_actors, plan.record["pixel_fingerprint"], run, settings.picture_timeout_s) as pool:
            pool.convert_all(tasks, on_done)
    return [reports[shard] for shard in plan.shards()]


def _refuse_read_only(dataset: Place) -> None:
    if dataset.is_local and not os.access(folder := _standing(dataset), os.W_OK | os.X_OK):
        raise RefusedError(
            f"{dataset.uri}: nothing can be written in {folder}, which is read only or belongs to somebody else; mount "
            "it writable, let this user write there, or choose another folder"
        )


def _standing(dataset: Place) -> Path:
    """The folder of a local dataset, or the nearest one above that is there already."""
    path = dataset.local_path()
    return next(p for p in (path, *path.parents) if p.is_dir())


def _refuse_full_disk(dataset: Place, plan: Plan) -> None:
    if not dataset.is_local:
        return
    needed = int(plan.num_entries * plan.settings.side**2 * BYTES_PER_PIXEL[plan.settings.payload])
    needed += plan.num_shards("train") * plan.settings.side**2 * SUM_BYTES_PER_PIXEL
    written = sum(f.size for folder in (*plan.entries, "parts") for f in dataset.files(folder))
    free = shutil.disk_usage(_standing(dataset)).free
    if needed - written > free:
        raise RefusedError(
            f"{dataset.uri}: needs about {_size(needed - written)}, free are {_size(free)}; "
            "free some space, or choose another disk"
        )


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 10**9 else f"{num_bytes / 1e6:.2f} MB"


def _sweep_staging(dataset: Place) -> None:
    """Remove half-written files of processes that died: the local store stages as `name#1`."""
    if not dataset.is_local:
        return
    for path in dataset.local_path().rglob("*#*"):
        with suppress(FileNotFoundError):  # another run has just put it
            if path.name.rpartition("#")[2].isdigit() and time.time() - path.stat().st_mtime > STALE_STAGING_S:
                path.unlink()


def _say_imaging(run: RunWriter) -> None:
    library = imaging_library()
    if not library["simd"]:
        run.event(
            "warning",
            f"Plain {library['name']} {library['version']} is active: conversion is about half as fast as with "
            "pillow-simd, and pixels can differ from it by one level.",
        )


def _timed(source: Source, plan: Plan) -> tuple[float, float, int]:
    """Seconds and payload bytes of a sample, and how many were bad, over the first few of the plan."""
    rows, settings = plan.entries["train"].slice(0, TIMED_SAMPLES), plan.settings
    first = planned_entries(rows_bytes(rows), 0)
    started, size, bad = time.perf_counter(), 0, 0
    for data in islice(source.read(source.place, [p.entry for p in first]), TIMED_SAMPLES):
        try:
            size += len(encode(rescale(data, settings).image, settings))
        except PictureError:
            bad += 1
    return (time.perf_counter() - started) / len(first), size / max(len(first) - bad, 1), bad


def _facts(dataset: Place, manifest: Manifest, converted: int, started: float) -> dict[str, Any]:
    seconds = time.monotonic() - started
    return {
        "dataset": dataset.uri,
        "dataset_id": manifest.dataset_id,
        "content_id": manifest.content_id,
        "num_samples": sum(s.num_samples for s in manifest.splits.values()),
        "num_quarantined": len(manifest.quarantine),
        "num_classes": len(manifest.classes),
        "splits": {
            name: {
                "num_samples": s.num_samples,
                "num_quarantined": s.num_quarantined,
                "num_shards": len(s.shards),
                "bytes": sum(f.size for f in s.shards),
            }
            for name, s in manifest.splits.items()
        },
        "samples_converted": converted,
        "samples_per_s": round(converted / seconds, 1) if seconds else 0.0,
        "seconds": round(seconds, 2),
        "imaging": f"{manifest.imaging['name']} {manifest.imaging['version']}",
    }
