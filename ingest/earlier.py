"""What an earlier run of the same plan left behind: shards to keep, and shards to make again."""

from collections.abc import Sequence

from ingest.convert import ShardReport, part_path
from ingest.plan import Plan
from ingest.progress import RunWriter
from ingest.storage import Place


def finished(dataset: Place, plan: Plan) -> dict[tuple[str, int], ShardReport]:
    """Reports whose shard still lies there with the stated size; what does not fit is set aside."""
    wanted = {part_path(split, number, "json"): (split, number) for split, number in plan.shards()}
    sizes = {f.path: f.size for split in plan.entries for f in dataset.files(split)}
    found = {}
    for file in dataset.files("parts"):
        if (shard := wanted.get(file.path)) is not None:
            report = _report_or_none(dataset, file.path)
            if report is not None and sizes.get(report.path) == report.size:
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
