"""A dataset removed: refused while it is in use, its manifest first, never a file that is no part of it.

The manifest is the first file that goes, so what is left is never taken for a whole dataset; `plan.json` is the last one,
so that a removal that was cut short is known for what it is, and the same removal again finishes it.
"""

import json
import os
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.upkeep.works import Work, whole
from ingest.errors import RefusedError
from ingest.manifest import MANIFEST
from ingest.plan import PLAN
from ingest.storage import STAGED, Place, StoredFile

FILES = (
    r"plan/entries-\w+\.arrow",
    r"\w+/\d{5,}\.(arrow|tfrecord|idx)",
    r"parts/\w+-\d{5,}\.(arrow|npz|json)",
    r"quarantine/\w+-\d+\.(json|bin)",
    r"index/\w+\.arrow",
    r"statistics/(mean\.npy|mean\.png|pca\.json|sums\.npz)",
    r"damaged/.+",
)
PART_OF_DATASET = re.compile("|".join(FILES))
SIDE_BY_SIDE = 16
MANY = 5


@dataclass(frozen=True)
class Belongings:
    """The files of a dataset, and what lies among them that is no part of it (links too)."""

    files: tuple[StoredFile, ...]
    others: tuple[str, ...]


def belongings(place: Place) -> Belongings:
    """Look through a dataset's folder, sealed or not. Raises RefusedError if it is none, or a link to one."""
    if place.is_local and Path(place.uri).is_symlink():
        raise RefusedError(
            f"{place.uri}: is a link to {os.path.realpath(place.uri)}; give that, and remove the link yourself"
        )
    if _value(place, MANIFEST, "dataset_id") is None and _value(place, PLAN, "format_version") is None:
        raise RefusedError(
            f"{place.uri}: is no dataset (no {MANIFEST} and no {PLAN} of Tench in it); nothing was removed"
        )
    found = list(_local_files(Path(place.uri)) if place.is_local else place.walk())
    ours = tuple(file for file in found if file.size >= 0 and _belongs(file.path))
    return Belongings(ours, tuple(file.path for file in found if file not in set(ours)))


def _belongs(path: str) -> bool:
    path = STAGED.sub("", path)
    return path in (MANIFEST, PLAN) or PART_OF_DATASET.fullmatch(path) is not None


def users(place: Place, works: Iterable[Work], force: bool = False) -> list[str]:
    """A sentence for each work that needs the dataset: at work or about to be; unless `force`, also one that stopped or
    failed and could go on with it."""
    wanted = whole(place.uri)
    said = []
    for work in works:
        if (work.ended_at is not None and (force or not work.can_go_on)) or wanted not in work.places():
            continue
        name = f"{work.kind} {work.id}"
        said.append(
            f"{name} is {work.state}" if work.ended_at is None else f"{name} {work.state} and could go on with it"
        )
    return said


def refuse_used(place: Place, works: Iterable[Work], force: bool = False) -> None:
    """Raise RefusedError naming the works that need a dataset."""
    if said := users(place, works, force):
        raise RefusedError(used_words(place, said))


def used_words(place: Place, said: list[str]) -> str:
    """Why a dataset is not removed, and what to do."""
    more = f", and {len(said) - MANY} more" if len(said) > MANY else ""
    remedy = (
        "stop them, or wait for their end" if any("could go on" not in words for words in said) else
        "remove it all the same with --force (?force=true)"
    )  # fmt: skip
    return f"{place.uri}: is used: {', '.join(said[:MANY])}{more}; {remedy}"


def remove(place: Place, parts: Belongings) -> dict[str, Any]:
    """Remove a dataset's files and the folders that are empty then; the facts. May be killed and called again."""
    paths = [file.path for file in parts.files]
    dataset_id = _value(place, MANIFEST, "dataset_id")
    place.delete(MANIFEST)
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        list(pool.map(place.delete, [path for path in paths if path not in (MANIFEST, PLAN)]))
    if place.is_local:
        _remove_empty(Path(place.uri), keep_top=True)
    place.delete(PLAN)
    if place.is_local:
        _remove_empty(Path(place.uri), keep_top=False)
    return {
        "dataset_id": dataset_id, "removed": place.uri, "num_files": len(paths),
        "bytes": sum(file.size for file in parts.files), "left": list(parts.others),
    }  # fmt: skip


def _value(place: Place, path: str, key: str) -> Any:
    """A value of a JSON file, None without it. What was damaged may be removed as well."""
    try:
        return json.loads(place.get(path))[key]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _local_files(folder: Path) -> Iterator[StoredFile]:
    """Every file below a folder, staged ones too, no link followed: a link, and what is no file, has size -1."""
    for where, folders, names in os.walk(folder):
        links = [name for name in folders if Path(where, name).is_symlink()]
        for name in sorted([*names, *links]):
            path = Path(where, name)
            is_plain = path.is_file() and not path.is_symlink()
            yield StoredFile(str(path.relative_to(folder)), path.stat().st_size if is_plain else -1)


def _remove_empty(folder: Path, keep_top: bool) -> None:
    """Remove the empty folders below a folder, innermost first, and the folder itself unless it is to stay."""
    for where, _, _ in os.walk(folder, topdown=False):
        path = Path(where)
        if (path != folder or not keep_top) and not any(path.iterdir()):
            path.rmdir()
