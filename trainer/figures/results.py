"""Errors of our runs beside those that were published: as data, and as the sections of a table.

In: run folders. Out: JSON-able facts, or sections of text cells; `results_sheet.py` draws these.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ingest.errors import RefusedError
from trainer.figures import published, record
from trainer.figures.curves import run_names

OURS = ("run", "epoch", "num_classes", "split", "views", "num_networks", "num_samples", "top1_error", "top5_error")
ILSVRC_CLASSES = 1000


@dataclass(frozen=True)
class Row:
    """Name, views, up to four numbers as text, source."""

    name: str
    views: str
    numbers: tuple[str, ...]
    source: str


@dataclass(frozen=True)
class Section:
    """Rows under a title, headings over the numbers; `is_ours` is shown with a tint."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[Row, ...]
    is_ours: bool = False
    note: str = ""


def gathered(run_folders: Sequence[str]) -> dict[str, Any]:
    """`ours`: the latest evaluations of each run (errors as shares of 1); the rest as published (percent).

    Raises RefusedError if a run was never evaluated.
    """
    ours = [
        {name: facts.get(name, 1 if name == "num_networks" else None) for name in OURS}
        for folder, run in zip(run_folders, run_names(run_folders), strict=True)
        for facts in _of_run(folder, run)
    ]
    errors = {"ilsvrc_2012_val": published.ILSVRC_2012, "ilsvrc_2010_test": published.ILSVRC_2010}
    errors["fall_2009"] = published.FALL_2009
    return {
        "ours": ours,
        **{name: [row._asdict() for row in rows] for name, rows in errors.items()},
        "gains": [gain._asdict() for gain in published.GAINS],
    }


def sections(facts: dict[str, Any]) -> list[Section]:
    """The table of `gathered`, top down."""
    two = ("top-1", "top-5")
    return [
        _ours(facts["ours"]),
        Section(
            "ILSVRC-2012, errors in %: 50,000 validation pictures, 1,000 classes", ("top-1", "top-5", "top-5 test"),
            _errors(facts["ilsvrc_2012_val"], with_test=True), note="*: pre-trained on all of Fall 2011",
        ),
        Section(
            "ILSVRC-2010, errors in %: 150,000 test pictures, 1,000 classes", two, _errors(facts["ilsvrc_2010_test"])
        ),
        Section("Fall 2009, errors in %: 10,184 classes", two, _errors(facts["fall_2009"])),
        _gains(facts["gains"]),
    ]  # fmt: skip


def _of_run(folder: str, run: str) -> list[dict[str, Any]]:
    found = record.evaluations(folder)
    if not found:
        raise RefusedError(f"{folder}: was never evaluated; `tench evaluate DATASET {folder}` measures its errors")
    state = record.newest_state(folder)
    num_classes = len(state["classes"]) if state else None
    return [{**facts, "run": run, "num_classes": num_classes} for facts in found]


def _ours(ours: list[dict[str, Any]]) -> Section:
    rows = tuple(
        Row(
            one["run"] if one["num_networks"] == 1 else f"{one['run']} and {one['num_networks'] - 1} more",
            str(one["views"]),
            (f"{one['top1_error']:.2%}"[:-1], f"{one['top5_error']:.2%}"[:-1]),
            _data_words(one),
        )
        for one in ours
    )
    others = any(one["num_classes"] != ILSVRC_CLASSES for one in ours)
    note = "Runs on other data than ILSVRC's 1,000 classes cannot be compared with the numbers below." if others else ""
    return Section("Our runs, errors in %", ("top-1", "top-5"), rows, is_ours=True, note=note)


def _data_words(one: dict[str, Any]) -> str:
    classes = f"{one['num_classes']:,} classes" if one["num_classes"] else ""
    epoch = f"epoch {one['epoch']}" if one["epoch"] else ""
    return ", ".join(part for part in (f"{one['num_samples']:,} of {one['split']}", classes, epoch) if part)


def _errors(rows: Iterable[dict[str, Any]], with_test: bool = False) -> tuple[Row, ...]:
    names = ("top1", "top5", "top5_test") if with_test else ("top1", "top5")
    return tuple(
        Row(row["network"], str(row["views"] or ""), tuple(row[name] for name in names), row["source"]) for row in rows
    )


def _gains(gains: Iterable[dict[str, Any]]) -> Section:
    names = ("paper_top1", "paper_top5", "museum_top1", "museum_top5")
    rows = tuple(Row(gain["part"], "", tuple(gain[name] for name in names), gain["source"]) for gain in gains)
    headings = ("paper top-1", "paper top-5", "museum top-1", "museum top-5")
    return Section("What a part is worth, points of error", headings, rows)
