"""What may go of the runs of a home, and why: a decision on facts, apart from any disk. Pure.

Whole folders of runs that ended long ago go, of younger ones the checkpoints beyond the newest and the record of what
happened on the way (events, logs, traces). How they ended and what they were asked for stays with the folder.

A run that is not over keeps everything, and so does all that it names: the job it comes after, the run that it evaluates or
that its weights began with, and what those name. What a run names that is over, but young enough to be kept, keeps its
folder and its newest checkpoint.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator

from ingest.settings import Execution, Settings

SECONDS = {"m": 60.0, "h": 3600.0, "d": 86400.0}
AGE = re.compile(r"\d{1,6}[mhd]")


def _checked_age(age: str) -> str:
    if not AGE.fullmatch(age):
        raise ValueError(f"{age} is no age; expected minutes, hours or days, as in 90m, 12h, 30d")
    return age


Age = Annotated[str, Execution, AfterValidator(_checked_age)]
Reason = Literal["old run", "run of no job", "older checkpoint", "old record", "staged file"]


class KeepSettings(Settings):
    """How long what is kept: minutes, hours or days, as in 90m, 12h, 30d."""

    checkpoints_after: Age = "30d"
    """Remove the checkpoints beyond the newest whole one of runs that ended longer ago."""

    events_after: Age = "90d"
    """Remove events, logs and traces of runs that ended longer ago; how they ended stays."""

    runs_after: Age = "180d"
    """Remove the whole folders of runs that ended longer ago."""

    leftovers_after: Age = "1d"
    """Remove what nobody finished or uses any more: staged files, and folders and cache files of processes that are
    gone."""


@dataclass(frozen=True, slots=True)
class Part:
    """A file or folder of a run, by its path in it."""

    path: str
    bytes: int
    at: float = 0.0
    """When it was last written."""


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What is known of a run. Times are Unix seconds."""

    id: str
    ended_at: float | None
    """None while it is not over."""
    names: frozenset[str] = frozenset()
    """Ids of the runs that it needs."""
    bytes: int = 0
    older: tuple[Part, ...] = ()
    """Checkpoints beyond the newest whole one."""
    record: tuple[Part, ...] = ()
    """Events, logs, traces."""
    staged: tuple[Part, ...] = ()
    """Files that nobody has finished."""
    has_folder: bool = True
    is_orphan: bool = False
    """Its folder says that it is a job's, and the store knows no such job."""


@dataclass(frozen=True, slots=True)
class Removal:
    """Something that may go: a part of a run, or all of it (path "")."""

    run: str
    path: str
    bytes: int
    reason: Reason


def seconds(age: str) -> float:
    """30d as seconds."""
    return int(age[:-1]) * SECONDS[age[-1]]


def decide(runs: Iterable[RunFacts], settings: KeepSettings, now: float) -> list[Removal]:
    """What may go, run by run."""
    by_id = {run.id: run for run in runs}
    oldest = now - seconds(settings.runs_after)
    unfinished = named_by([run.id for run in by_id.values() if run.ended_at is None], by_id)
    young = [run.id for run in by_id.values() if run.ended_at is not None and run.ended_at > oldest]
    kept = named_by([*unfinished, *young], by_id)
    removals: list[Removal] = []
    for run in by_id.values():
        if not run.has_folder or run.id in unfinished:
            continue
        if run.id in kept:
            removals += _parts(run, settings, now)
        else:
            removals.append(Removal(run.id, "", run.bytes, "run of no job" if run.is_orphan else "old run"))
    return removals


def named_by(first: Iterable[str], runs: Mapping[str, RunFacts]) -> set[str]:
    """These runs, all that they name, all that those name, and so on."""
    found: set[str] = set()
    waiting = list(first)
    while waiting:
        run = waiting.pop()
        if run not in found:
            found.add(run)
            waiting += runs[run].names if run in runs else ()
    return found


def _parts(run: RunFacts, settings: KeepSettings, now: float) -> list[Removal]:
    def is_older(at: float | None, age: str) -> bool:
        return at is not None and at <= now - seconds(age)

    found: list[Removal] = []
    if is_older(run.ended_at, settings.checkpoints_after):
        found += [Removal(run.id, part.path, part.bytes, "older checkpoint") for part in run.older]
    if is_older(run.ended_at, settings.events_after):
        found += [Removal(run.id, part.path, part.bytes, "old record") for part in run.record]
    gone = tuple(f"{removal.path}/" for removal in found)
    staged = [part for part in run.staged if is_older(part.at, settings.leftovers_after)]
    found += [
        Removal(run.id, part.path, part.bytes, "staged file") for part in staged if not part.path.startswith(gone)
    ]
    return found
