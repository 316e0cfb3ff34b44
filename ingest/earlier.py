"""What an earlier run of the same plan left behind: shards to keep, and shards to make again."""

from collections.abc import Sequence

from ingest.convert import ShardReport, part_path
from ingest.plan import Plan
from ingest.progress import RunWriter
from ingest.quarantine import FOLDER as QUARANTINE
from ingest.quarantine import read_verdict, verdict_path
from ingest.storage import Place


def finished(dataset: Place, plan: Plan) -> dict[tuple[str, int], ShardReport]:
    """Reports whose shard still lies there with the stated size, and whose verdicts do; the rest is set aside."""
    wanted = {part_path(split, number, "json"): (split, number) for split, number in plan.shards()}
    reports = dataset.files("parts")
    # Looked at after the reports: another run may be writing, and what a report speaks of is there before it.
    sizes = {f.path: f.size for split in plan.entries for f in dataset.files(split)}
    verdicts = {f.path for f in dataset.files(QUARANTINE)}
    found = {}
    for file in reports:
        if (shard := wanted.get(file.path)) is not None:
            report = _report_or_none(dataset, file.path)
            if report is not None and sizes.get(report.path) == report.size and _verdicts(report) <= verdicts:
                found[shard] = report
            else:
                _move_aside(dataset, [file.path, *([report.path] if report is not None else [])])
    return found


def set_aside(dataset: Place, damaged: Sequence[ShardReport], run: RunWriter) -> None:
    """Move shards that do not have their recorded hash out of the way, so that they are made again."""
    for report in damaged:
        run.event("warning", f"{report.path} is not what was written; it is made again.", path=report.path)
        report_path = part_path(report.split, report.number, "json")
        _move_aside(dataset, [report_path, report.path, *report.part_sha256])


def set_cut_verdicts_aside(dataset: Place, run: RunWriter) -> None:
    """Move verdicts out of the way that a loss of power has cut, or whose pictures it has: they are given again.

    Only in local folders: in an object store a file is whole or not there.
    """
    if not dataset.is_local:
        return
    sizes = {f.path: f.size for f in dataset.files(QUARANTINE)}
    for path in sorted(path for path in sizes if path.endswith(".json")):
        picture = path.removesuffix(".json") + ".bin"
        if sizes.get(picture) != _picture_size(dataset, path):
            run.event("warning", f"{path} is not what was written; it is made again.", path=path)
            _move_aside(dataset, [path, picture])


def _picture_size(dataset: Place, path: str) -> int:
    """Bytes of the picture of a verdict, -1 if that is cut."""
    try:
        return read_verdict(dataset, path).size
    except (ValueError, TypeError):
        return -1


def _verdicts(report: ShardReport) -> set[str]:
    """Where the verdicts on a shard's bad pictures lie."""
    return {f"{verdict_path(report.split, bad['row'])}.json" for bad in report.quarantined}


def _report_or_none(dataset: Place, path: str) -> ShardReport | None:
    """A shard's report, None if it is cut."""
    try:
        return ShardReport.from_bytes(dataset.get(path))
    except (ValueError, TypeError):
        return None


def _move_aside(dataset: Place, paths: Sequence[str]) -> None:
    for path in paths:
        if dataset.exists(path):
            dataset.move(path, f"damaged/{path}")
