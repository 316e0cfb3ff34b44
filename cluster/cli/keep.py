"""Command line that keeps house: `tench gc`."""

import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from cyclopts import App

from cluster.cli.flags import Flat, Json, StoreFlag, Yes, home, print_json, store_place
from cluster.upkeep.keeping import KeepSettings
from ingest.words import counted, size_words

T = TypeVar("T")
KEEP_DEFAULTS = KeepSettings()
HEADINGS = {
    "old run": "run folders, ended long ago",
    "run of no job": "run folders of jobs that the store does not know",
    "older checkpoint": "checkpoints beyond the newest",
    "old record": "events, logs and traces",
    "staged file": "files that nobody finished",
    "removed before": "left by a removal that was interrupted",
    "Ray folder": "folders of a Ray that is gone",
    "cache file": "cache files that nobody fetches",
}


@dataclass(frozen=True)
class Row:
    """Something that goes: where it lies, its bytes, the reason."""

    path: str
    bytes: int
    reason: str


def add_to(app: App) -> None:
    """Hang this command into the command line."""
    app.command(gc)


def gc(
    *,
    settings: Annotated[KeepSettings, Flat] = KEEP_DEFAULTS,
    store: StoreFlag = None,
    yes: Yes = False,
    json: Json = False,
) -> int:
    """Show what is old or left over in HOME (TENCH_HOME), and with --yes remove it; also while a service is at work.

    Nothing goes that an unfinished job or run has or names: the job it comes after, the run that it evaluates or that its
    weights began with. Of every run that stays, the newest whole checkpoint, what was asked for and how it ended stay.
    Runs in folders of their own outside of HOME, and datasets, are never touched.
    """
    rows, failed = _kept_house(home(), store_place(home(), store), settings, yes)
    reasons = {reason: [row for row in rows if row.reason == reason] for reason in HEADINGS}
    facts: dict[str, Any] = {
        "removed": yes, "home": str(home()), "bytes": sum(row.bytes for row in rows),
        "reasons": {r: {"number": len(of), "bytes": sum(row.bytes for row in of)} for r, of in reasons.items() if of},
        "removals": [{"path": row.path, "bytes": row.bytes, "reason": row.reason} for row in rows],
        "failed": failed,
    }  # fmt: skip
    if json:
        print_json(facts)
    else:
        print("\n".join(table_lines(rows)))
        print(_end_words(rows, yes))
    for words in failed:
        print(f"! {words}", file=sys.stderr)
    return 1 if failed else 0


def table_lines(rows: Iterable[Row]) -> list[str]:
    """A line a reason, with number and bytes, and what they add up to."""
    rows = list(rows)
    reasons = [(heading, [row.bytes for row in rows if row.reason == reason]) for reason, heading in HEADINGS.items()]
    lines = [f"{len(sizes):>8,}  {size_words(sum(sizes)):>9}  {heading}" for heading, sizes in reasons if sizes]
    return [*lines, f"{len(rows):>8,}  {size_words(sum(row.bytes for row in rows)):>9}  altogether"] if rows else []


def _end_words(rows: list[Row], is_removed: bool) -> str:
    if not rows:
        return "There is nothing to remove."
    return "Removed." if is_removed else f"Nothing was removed: with --yes {counted(len(rows), 'thing')} would be."


def _kept_house(home: Path, store: str, settings: KeepSettings, yes: bool) -> tuple[list[Row], list[str]]:
    """What goes, or went; and a sentence for each thing that could not be removed."""
    from cluster.upkeep import housekeeping, leftovers
    from cluster.upkeep.keeping import decide, seconds
    from cluster.upkeep.works import read_works

    runs, now = home / "runs", time.time()
    works = read_works(runs, store)
    knows_jobs = "://" in store or Path(store).exists()
    aside = housekeeping.left_aside(runs)
    removals = decide(housekeeping.facts_of(works, runs, knows_jobs), settings, now)
    left = leftovers.leftovers(now - seconds(settings.leftovers_after))
    if yes:
        removals = housekeeping.still_free(removals, works, read_works(runs, store), runs)
    rows = [Row(str(path), housekeeping.size_of(path).bytes, "removed before") for path in aside]
    rows += [Row(str(runs / r.run / r.path if r.path else runs / r.run), r.bytes, r.reason) for r in removals]
    rows += [Row(str(found.path), found.bytes, found.reason) for found in left]
    if not yes:
        return rows, []
    # All are out of sight before the first is removed, which may take minutes.
    aside += [path for removal in removals if (path := housekeeping.set_aside(removal, runs))]
    failed = [words for path in aside if (words := _failure(housekeeping.remove_aside, path))]
    return rows, failed + [words for found in left if (words := _failure(leftovers.remove, found))]


def _failure(remove: Callable[[T], None], what: T) -> str | None:
    """Remove something; what went wrong, None if nothing did."""
    try:
        remove(what)
    except OSError as error:
        return f"{error.filename}: cannot be removed ({error.strerror}); the next `tench gc --yes` tries again"
    return None
