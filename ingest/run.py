"""The whole conversion: what `tench ingest` and an ingest job call."""

import json
import math
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ingest.convert import ShardReport, ShardTask, part_path
from ingest.errors import BudgetError, RefusedError
from ingest.manifest import MANIFEST, Manifest, read_manifest
from ingest.pixels import PictureError, encode, imaging_library, pixel_fingerprint, rescale
from ingest.plan import PLAN, Plan, differences, entries_bytes, make_plan, plan_bytes, shard_entries
from ingest.progress import RunWriter
from ingest.seal import damaged_shards, seal
from ingest.settings import IngestSettings
from ingest.sources import Source, detect
from ingest.storage import Place

if TYPE_CHECKING:
    from ingest.pool import Converted

TIMED_SAMPLES = 24
STALE_STAGING_S = 3600
REBUILDS = 2
BYTES_PER_PIXEL = {"raw": 3.0, "jpeg": 0.6}
"""Space that is asked for: for JPEGs a generous bound, that of quality 90."""


@dataclass
class _Tally:
    """What has been done, for the progress and the final facts."""

    samples: int = 0
    quarantined: int = 0
    bytes: int = 0
    converted_now: int = 0


def ingest(source: str, dataset: str, settings: IngestSettings, run: RunWriter) -> dict[str, Any]:
    """Convert a source into a sealed dataset; go on where an earlier run of the same plan stopped.

    The caller has connected Ray. Returns the final facts (`dataset_id`, `content_id`, `num_samples` ...).
    Raises RefusedError (source, target or plan do not fit), BudgetError (too many bad pictures), Interrupted.
    """
    started = time.monotonic()
    opened, place = _open_both(source, dataset)
    plan = _planned(opened, place, settings, run)
    if place.exists(MANIFEST):
        run.event("phase", "The dataset is sealed already: nothing to do.")
        return _facts(place, read_manifest(place), _Tally(), started)
    _put_plan(place, plan)
    _refuse_full_disk(place, plan)
    _sweep_staging(place)
    _say_imaging(run)
    tally = _Tally()
    reports = _convert_missing(opened, place, plan, settings, run, tally)
    run.event("phase", "All shards are written; sealing: index, statistics, manifest.")
    total = tally.samples + tally.quarantined
    run.progress("sealing", total, total, "samples", force=True, **_figures(tally))
    for _ in range(REBUILDS):
        if not (damaged := damaged_shards(place, reports)):
            break
        _set_aside(place, damaged, run)
        reports = _convert_missing(opened, place, plan, settings, run, _Tally())
    manifest = seal(place, plan, reports, opened.layout)
    run.event("sealed", f"Sealed: dataset {manifest.dataset_id[:16]}.", dataset_id=manifest.dataset_id)
    return _facts(place, manifest, tally, started)


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


def allowed_bad(max_bad: str, num_entries: int) -> int:
    """Pictures that may be bad: a count, or a share of all (rounded down)."""
    if max_bad.endswith("%"):
        return math.floor(num_entries * Fraction(max_bad[:-1]) / 100)
    return int(max_bad)


def _open_both(source: str, dataset: str) -> tuple[Source, Place]:
    opened, place = detect(source), Place(dataset)
    if opened.place.is_local and place.is_local:
        inner, outer = Path(place.uri).resolve(), Path(opened.place.uri).resolve()
        if inner == outer or outer in inner.parents:
            raise RefusedError(f"{place.uri}: lies inside the source {opened.place.uri}; choose a folder outside of it")
    return opened, place


def _planned(source: Source, dataset: Place, settings: IngestSettings, run: RunWriter) -> Plan:
    """The plan of this run, which is that of the dataset if one was begun."""
    run.event("phase", f"Listing {source.place.uri}: {source.layout}.", layout=source.layout)
    plan = make_plan(source, settings, pixel_fingerprint())
    _refuse_other_plan(dataset, plan)
    run.event(
        "planned",
        f"{plan.num_entries:,} pictures in {len(plan.wnids)} classes, {sum(1 for _ in plan.shards())} shards.",
        splits=plan.record["splits"], num_shards=sum(1 for _ in plan.shards()), plan_hash=plan.record["plan_hash"],
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
    if dataset.exists(PLAN):
        found = json.loads(dataset.get(PLAN))
        if said := differences(found, plan.record):
            raise RefusedError(
                f"{dataset.uri}: was begun with another plan: {'; '.join(said)}. Give the same settings and source, "
                "or another folder"
            )
    elif dataset.files() or dataset.folders():
        raise RefusedError(f"{dataset.uri}: is not empty and holds no dataset of Tench; give a new or empty folder")


def _convert_missing(
    source: Source, dataset: Place, plan: Plan, settings: IngestSettings, run: RunWriter, tally: _Tally
) -> list[ShardReport]:
    """Make every shard that has no report yet; the reports of all, in plan order."""
    from ingest.pool import Pool, num_cpus_granted

    reports = _finished(dataset, plan)
    budget, planned = allowed_bad(settings.max_bad, plan.num_entries), plan.settings
    for report in reports.values():
        _count(tally, report)
    _refuse_over_budget(tally, budget, settings, dataset)
    tasks = [
        ShardTask(
            source.place, source.read, dataset, planned, tuple(plan.wnids), split, number,
            tuple(shard_entries(plan.entries[split], number, plan.samples_per_shard)),
        )
        for split, number in plan.shards()
        if (split, number) not in reports
    ]  # fmt: skip

    def on_done(done: "Converted") -> None:
        reports[done.report.split, done.report.number] = done.report
        _count(tally, done.report)
        tally.converted_now += done.report.num_samples + len(done.report.quarantined)
        _tell(run, done, tally, plan, num_actors)
        _refuse_over_budget(tally, budget, settings, dataset)

    num_actors = max(1, min(settings.num_actors or num_cpus_granted(), num_cpus_granted(), len(tasks)))
    run.progress("converting", tally.samples + tally.quarantined, plan.num_entries, "samples", force=True)
    if tasks:
        with Pool(num_actors, plan.record["pixel_fingerprint"], run) as pool:
            pool.convert_all(tasks, on_done)
    return [reports[shard] for shard in plan.shards()]


def _finished(dataset: Place, plan: Plan) -> dict[tuple[str, int], ShardReport]:
    """Reports of an earlier run whose shard still lies there with the stated size."""
    wanted = {part_path(split, number, "json"): (split, number) for split, number in plan.shards()}
    found = {}
    for file in dataset.files("parts"):
        if (shard := wanted.get(file.path)) is not None:
            report = _report_or_none(dataset, file.path)
            if report is not None and dataset.size(report.path) == report.size:
                found[shard] = report
            else:
                dataset.move(file.path, f"damaged/{file.path}")
                if report is not None and dataset.exists(report.path):
                    dataset.move(report.path, f"damaged/{report.path}")
    return found


def _report_or_none(dataset: Place, path: str) -> ShardReport | None:
    """A shard's report, None if it is cut."""
    try:
        return ShardReport.from_bytes(dataset.get(path))
    except (ValueError, TypeError):
        return None


def _set_aside(dataset: Place, damaged: Sequence[ShardReport], run: RunWriter) -> None:
    """Move what does not have its recorded hash out of the way, so that it is made again."""
    for report in damaged:
        run.event("warning", f"{report.path} is not what was written; it is made again.", path=report.path)
        for path in (part_path(report.split, report.number, "json"), report.path, *report.part_sha256):
            if dataset.exists(path):
                dataset.move(path, f"damaged/{path}")


def _count(tally: _Tally, report: ShardReport) -> None:
    tally.samples += report.num_samples
    tally.quarantined += len(report.quarantined)
    tally.bytes += report.size


def _tell(run: RunWriter, done: "Converted", tally: _Tally, plan: Plan, num_actors: int) -> None:
    report = done.report
    run.event(
        "shard",
        f"Shard {report.path}: {report.num_samples} samples in {done.seconds:.1f} s.",
        split=report.split, shard=report.number, num_samples=report.num_samples, seconds=round(done.seconds, 3),
        actor=done.actor,
    )  # fmt: skip
    for bad in report.quarantined:
        run.event("quarantined", f"{bad['key']}: {bad['code']}.", split=report.split, **bad)
    run.progress(
        "converting", tally.samples + tally.quarantined, plan.num_entries, "samples",
        num_actors=num_actors, **_figures(tally),
    )  # fmt: skip


def _figures(tally: _Tally) -> dict[str, Any]:
    return {"samples": tally.samples, "quarantined": tally.quarantined, "bytes": tally.bytes}


def _refuse_over_budget(tally: _Tally, budget: int, settings: IngestSettings, dataset: Place) -> None:
    if tally.quarantined > budget:
        raise BudgetError(
            f"{tally.quarantined} pictures cannot be decoded; --max-bad {settings.max_bad} allows {budget}. They lie "
            f"with their reasons in {dataset.name('quarantine')}; look at them, then run the same command with a "
            "larger --max-bad to go on"
        )


def _refuse_full_disk(dataset: Place, plan: Plan) -> None:
    if not dataset.is_local:
        return
    needed = int(plan.num_entries * plan.settings.side**2 * BYTES_PER_PIXEL[plan.settings.payload])
    written = sum(f.size for split in plan.entries for f in dataset.files(split))
    free = shutil.disk_usage(dataset.local_path()).free
    if needed - written > free:
        raise RefusedError(
            f"{dataset.uri}: needs about {(needed - written) / 1e9:.1f} GB, free are {free / 1e9:.1f} GB; "
            "free some space, or choose another disk"
        )


def _sweep_staging(dataset: Place) -> None:
    """Remove half-written files of processes that died: the local store stages as `name#1`."""
    if not dataset.is_local:
        return
    for path in dataset.local_path().rglob("*#*"):
        if path.name.rpartition("#")[2].isdigit() and time.time() - path.stat().st_mtime > STALE_STAGING_S:
            path.unlink(missing_ok=True)


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
    planned, settings = shard_entries(plan.entries["train"], 0, TIMED_SAMPLES), plan.settings
    started, size, bad = time.perf_counter(), 0, 0
    for data in islice(source.read(source.place, [p.entry for p in planned]), TIMED_SAMPLES):
        try:
            size += len(encode(rescale(data, settings).pixels, settings))
        except PictureError:
            bad += 1
    return (time.perf_counter() - started) / len(planned), size / max(len(planned) - bad, 1), bad


def _facts(dataset: Place, manifest: Manifest, tally: _Tally, started: float) -> dict[str, Any]:
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
        "samples_converted": tally.converted_now,
        "samples_per_s": round(tally.converted_now / seconds, 1) if seconds else 0.0,
        "seconds": round(seconds, 2),
        "imaging": f"{manifest.imaging['name']} {manifest.imaging['version']}",
    }
