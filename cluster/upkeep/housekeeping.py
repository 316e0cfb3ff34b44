"""Keeping house: the facts of a home's runs, and what `keeping.decide` lets go, removed.

What is to go is renamed first, into HOME/runs/.removed-..., where nobody looks for a run; then it is removed. So nothing is
ever seen half, and what a kill leaves there goes the next time.
"""

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.upkeep.keeping import Part, Removal, RunFacts, named_by
from cluster.upkeep.works import Work
from ingest.errors import TenchError
from ingest.progress import RunReader
from ingest.storage import STAGED, Place

RECORD = ("events", "logs", "tensorboard", "profile")
ASIDE = ".removed-"


@dataclass(frozen=True, slots=True)
class Size:
    """Bytes and files of a folder, links counted as such, and the staged files in it."""

    bytes: int
    staged: tuple[Part, ...]


def facts_of(works: Iterable[Work], runs: Path, knows_jobs: bool) -> list[RunFacts]:
    """The facts of each work with its run folder, if it has one. `knows_jobs` says that the store was read."""
    found = []
    for work in works:
        folder, names = runs / work.id, work.runs(runs)
        if folder.is_symlink() or not folder.is_dir():
            found.append(RunFacts(work.id, work.ended_at, names, has_folder=False))
            continue
        size = size_of(folder)
        found.append(
            RunFacts(
                work.id, work.ended_at, names, size.bytes,
                older=() if work.ended_at is None else older_checkpoints(folder),
                record=tuple(Part(name, size_of(folder / name).bytes) for name in RECORD if (folder / name).is_dir()),
                staged=size.staged, is_orphan=knows_jobs and not work.is_job and _says_job(folder),
            )
        )  # fmt: skip
    return found


def older_checkpoints(run: Path) -> tuple[Part, ...]:
    """The checkpoints beyond the newest whole one, unfinished ones too. None while there is no whole one: then what is
    damaged may be all that there is."""
    from trainer import checkpoint

    folder = run / checkpoint.FOLDER
    names = sorted(p.name for p in folder.iterdir() if checkpoint.NAME.match(p.name)) if folder.is_dir() else []
    if len(names) < 2:
        return ()
    try:
        newest, _ = checkpoint.newest(Place(run))
    except TenchError:
        return ()
    if newest is None:
        return ()
    paths = [f"{checkpoint.FOLDER}/{name}" for name in names]
    return tuple(Part(path, size_of(run / path).bytes) for path in paths if path != newest.path)


def size_of(folder: Path) -> Size:
    """What a folder holds."""
    total, staged = 0, []
    for where, _, names in os.walk(folder):
        for name in names:
            path = Path(where, name)
            stat = path.lstat()
            total += stat.st_size
            if STAGED.search(name):
                staged.append(Part(str(path.relative_to(folder)), stat.st_size, stat.st_mtime))
    return Size(total, tuple(staged))


def left_aside(runs: Path) -> list[Path]:
    """What an earlier removal was killed over."""
    return sorted(runs.glob(f"{ASIDE}*"))


def still_free(
    removals: Iterable[Removal], before: Iterable[Work], afresh: Iterable[Work], runs: Path
) -> list[Removal]:
    """The removals whose runs nobody has begun anew, or asked for something of, since the decision."""
    marks = {work.id: work.mark for work in before}
    now = {work.id: work for work in afresh}
    named = {run.id: run for run in (RunFacts(w.id, w.ended_at, w.runs(runs)) for w in now.values())}
    unfinished = named_by([run.id for run in named.values() if run.ended_at is None], named)
    return [r for r in removals if r.run in now and now[r.run].mark == marks[r.run] and r.run not in unfinished]


def set_aside(removal: Removal, runs: Path) -> Path | None:
    """Rename a run, or a part of one, to where nobody looks for it; None if it is gone already."""
    target = runs / removal.run / removal.path if removal.path else runs / removal.run
    aside = runs / f"{ASIDE}{removal.run}{'-' if removal.path else ''}{removal.path.replace('/', '-')}"
    remove_aside(aside)
    try:
        return target.rename(aside)
    except FileNotFoundError:
        return None


def remove_aside(path: Path) -> None:
    """Remove a file or a folder with all that is in it; links are removed, not followed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _says_job(folder: Path) -> bool:
    try:
        request: dict[str, Any] = RunReader(Place(folder)).request()
    except (TenchError, ValueError, OSError):
        return False
    return "job" in request
