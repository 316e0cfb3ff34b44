"""Another try for pictures in quarantine: in place before the seal, as a new dataset after it.

A sealed dataset never changes. The new one has its settings and is planned from the source as it is now; shards
whose entries are the same and that have nothing in quarantine are copied, the others are converted.
"""

import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from ingest.convert import ShardReport, part_path
from ingest.dataset import Dataset
from ingest.errors import BudgetError, DamageError, Interrupted, RefusedError, UsageError
from ingest.manifest import MANIFEST
from ingest.pixels import pixel_fingerprint
from ingest.plan import PLAN, Plan, make_plan, plan_bytes
from ingest.progress import RunWriter
from ingest.quarantine import Verdict, read_verdicts, verdict_path
from ingest.settings import IngestSettings
from ingest.sources import detect
from ingest.storage import Place
from ingest.target import refuse_inside
from ingest.words import counted

COMPARED = ("key", "label", "length")
SEALING = ("index", "statistics")


def listed(dataset: str) -> list[Verdict]:
    """The verdicts of a dataset, sealed or not. Raises RefusedError if there is none."""
    return read_verdicts(_dataset_at(dataset))


def is_sealed(dataset: str) -> bool:
    """Whether a dataset is sealed. Raises RefusedError if there is none."""
    return _dataset_at(dataset).exists(MANIFEST)


def drop_verdicts(dataset: str) -> dict[str, Any]:
    """Forget the verdicts of a dataset that is not sealed, so that its next ingest tries these pictures again.

    What was made of their shards goes to damaged/. Stopped half-way, the same call goes on: verdicts go last.
    Raises UsageError for a sealed dataset, RefusedError if there is none, or if it is made of another dataset.
    """
    place = _dataset_at(dataset)
    record = json.loads(place.get(PLAN))
    if place.exists(MANIFEST):
        raise UsageError(
            f"{place.uri}: is sealed and never changes; give --source SOURCE and --out NEW to make a new dataset"
        )
    if parent := record.get("parent"):
        raise RefusedError(f"{place.uri}: is made of dataset {parent}, and its quarantine is that one's: try that one")
    verdicts = read_verdicts(place)
    shards = sorted({(v.split, v.row // record["settings"]["samples_per_shard"]) for v in verdicts})
    for path in [*_made_of(place, shards), *_begun_seal(place, shards)]:
        place.move(path, f"damaged/{path}")
    for verdict in verdicts:
        path = verdict_path(verdict.split, verdict.row)
        place.delete(f"{path}.bin")
        place.delete(f"{path}.json")
    return {"dataset": place.uri, "num_dropped": len(verdicts), "num_shards": len(shards)}


def retry_sealed(dataset: str, source: str, out: str, run: RunWriter) -> dict[str, Any]:
    """Make a new dataset in which the quarantined pictures are tried again. The caller has connected Ray.

    Returns the facts of the ingest, with `num_shards_copied` and `num_quarantined_before`. Raises RefusedError
    (target not empty, source does not fit, a centred dataset), BudgetError if more pictures are bad than before.
    """
    from ingest.run import ingest

    old, place = Dataset.open(dataset), Place(out)
    if old.manifest.parent:
        raise RefusedError(
            f"{old.uri}: was made of dataset {old.manifest.parent}; try the pictures of that one again, then centre the "
            "new one: `tench recentre`"
        )
    opened = detect(source)
    refuse_inside(place, old.place)
    refuse_inside(place, opened.place)
    num_before = len(old.manifest.quarantine)
    settings = IngestSettings.model_validate({**old.manifest.settings, "max_bad": str(num_before)})
    plan = make_plan(opened, settings, pixel_fingerprint())
    _warn_of_lost(old, plan, run)
    num_copied = 0
    if _begun(place, plan) and not place.exists(MANIFEST):
        num_copied = _copy_shards(old, place, plan, run)
    try:
        facts = ingest(source, out, settings, run)
    except BudgetError as error:
        raise BudgetError(
            f"{error.message}. A retry allows as many as there were before: here that is `tench ingest {source} {out}` "
            f"with the settings of {old.uri}"
        ) from error
    return {**facts, "num_shards_copied": num_copied, "num_quarantined_before": num_before}


def _dataset_at(dataset: str) -> Place:
    place = Place(dataset)
    if not place.exists(PLAN):
        raise RefusedError(f"{place.uri}: no dataset (no {PLAN}); `tench ingest SOURCE DATASET` makes one")
    return place


def _made_of(place: Place, shards: list[tuple[str, int]]) -> Iterator[str]:
    """Files of these shards, reports first: a shard without a report is made again."""
    reports = [part_path(split, number, "json") for split, number in shards]
    yield from (path for path in reports if place.exists(path))
    beginnings = tuple(f"{split}/{number:05d}." for split, number in shards)
    beginnings += tuple(part_path(split, number, "") for split, number in shards)
    folders = ("parts", *sorted({split for split, _ in shards}))
    for file in [f for folder in folders for f in place.files(folder)]:
        if file.path.startswith(beginnings) and file.path not in reports:
            yield file.path


def _begun_seal(place: Place, shards: list[tuple[str, int]]) -> list[str]:
    """Index and statistics of a seal that was stopped before its manifest: they would no longer fit."""
    return [file.path for folder in SEALING for file in place.files(folder)] if shards else []


def _begun(place: Place, plan: Plan) -> bool:
    """Put the plan into an empty target. True if it is the target's; otherwise the ingest will refuse it."""
    if not place.exists(PLAN) and not place.files() and not place.folders():
        place.put_new(PLAN, plan_bytes(plan.record))
    return place.exists(PLAN) and place.get(PLAN) == plan_bytes(plan.record)


def _warn_of_lost(old: Dataset, plan: Plan, run: RunWriter) -> None:
    """Say so if pictures of the old dataset are not in the source any more: the new one will be smaller."""
    lost: list[str] = []
    for split in old.split_names:
        now = set(plan.entries[split].column("key").to_pylist()) if split in plan.entries else set()
        lost += [key for key in _entries(old, split).column("key").to_pylist() if key not in now]
    if lost:
        run.event(
            "warning",
            f"{counted(len(lost), 'key')} of the old dataset {'is' if len(lost) == 1 else 'are'} not in this source, "
            f"first {lost[0]}: the new dataset is without.",
            num_lost=len(lost), first=lost[0],
        )  # fmt: skip


def _entries(old: Dataset, split: str) -> pa.Table:
    """The planned entries of a sealed dataset's split. Raises DamageError."""
    return pa.ipc.open_file(pa.py_buffer(old.checked_bytes(f"plan/entries-{split}.arrow"))).read_all()


def _copy_shards(old: Dataset, place: Place, plan: Plan, run: RunWriter) -> int:
    """Copy what would be made again of the same entries; how many shards."""
    before = json.loads(old.checked_bytes(PLAN))
    if any(before[name] != plan.record[name] for name in ("settings", "classes", "pixel_fingerprint")):
        run.event("phase", "Classes or imaging library are other ones than before: every shard is converted.")
        return 0
    same = [s for split in plan.entries for s in _same_shards(old, plan, split)]
    num_copied = 0
    for done, (split, number) in enumerate(same, start=1):
        if run.stop_requested():
            raise Interrupted("Stopped; what is copied is kept. The same command goes on from here.")
        num_copied += _copy(old, place, split, number)
        run.progress("copying", done, len(same), "shards", force=done == len(same))
    run.event("phase", f"Copied: {counted(num_copied, 'shard')} without bad pictures; the others are converted.")
    return num_copied


def _same_shards(old: Dataset, plan: Plan, split: str) -> Iterator[tuple[str, int]]:
    """Shards with the same entries in both plans and none of them in quarantine."""
    if split not in old.split_names:
        return
    size = plan.samples_per_shard
    bad = {q.row // size for q in old.manifest.quarantine if q.split == split}
    entries = _entries(old, split).select(COMPARED)
    wanted = plan.entries[split].select(COMPARED)
    for number in range(plan.num_shards(split)):
        if number not in bad and entries.slice(number * size, size).equals(wanted.slice(number * size, size)):
            yield split, number


def _copy(old: Dataset, place: Place, split: str, number: int) -> bool:
    """Copy the files of a shard, its report last. False if one is damaged: the shard is made again."""
    path = part_path(split, number, "json")
    if place.exists(path):
        return True
    try:
        report = ShardReport.from_bytes(old.checked_bytes(path))
        for name in (report.path, *report.part_sha256, path):
            place.put_new(name, old.checked_bytes(name))
    except DamageError:
        return False
    return True
