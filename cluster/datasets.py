"""Datasets that the service can see: folders under its roots that hold a manifest, on disks and in object stores."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cluster.buckets import AGAIN_S, MAX_DEPTH, Buckets, Found, readable
from ingest.manifest import MANIFEST, Manifest
from ingest.storage import Place

MAX_FOLDERS = 50_000
"""Of a root: a source may lie there as well, whose classes are folders."""


class Library:
    """Finds sealed datasets by scanning roots; what was read of a manifest is kept until the file changes."""

    def __init__(self, roots: list[str]) -> None:
        places = [Place(root) for root in roots]
        self._roots = _outermost([place.local_path() for place in places if place.is_local])
        self._buckets = Buckets([place for place in places if not place.is_local])
        self._cut: set[Path] = set()
        self._lock = threading.Lock()
        self._read: dict[Path, tuple[tuple[int, int], dict[str, Any] | None]] = {}

    def datasets(self) -> list[dict[str, Any]]:
        """A summary of each, by name. A folder whose manifest cannot be read is left out."""
        with self._lock:
            found = [summary for path in self._manifests() if (summary := self._summary(path)) is not None]
        found += _distinct(self._buckets.datasets())
        return sorted(found, key=lambda d: (d["name"], d["uri"]))

    def find(self, dataset_id: str) -> dict[str, Any] | None:
        """The summary of one dataset (of one copy, if there are several)."""
        if known := self._known(dataset_id):
            return known
        looks = (self.datasets, lambda: _distinct(self._buckets.datasets(AGAIN_S)))
        return next((d for look in looks for d in look() if d["dataset_id"] == dataset_id), None)

    def expire(self) -> None:
        """Something was removed: the next answer is not from memory."""
        self._buckets.expire()

    def unfinished(self) -> list[str]:
        """Roots with so many folders that the last scan did not look into all of them; stores that did not answer."""
        with self._lock:
            return sorted([*(str(root) for root in self._cut), *self._buckets.unfinished()])

    def _known(self, dataset_id: str) -> dict[str, Any] | None:
        """As `find`, of one that was seen before, without a scan."""
        with self._lock:
            seen = [path for path, (_, found) in self._read.items() if found and found["dataset_id"] == dataset_id]
            summaries = (self._summary(path) for path in sorted(seen))
            return next((found for found in summaries if found and found["dataset_id"] == dataset_id), None)

    def _manifests(self) -> Iterator[Path]:
        for root in self._roots:
            self._cut.discard(root)
            for number, (folder, inside, files) in enumerate(os.walk(root)):
                if number == MAX_FOLDERS:
                    self._cut.add(root)
                    break
                if MANIFEST in files:
                    inside.clear()
                    yield Path(folder, MANIFEST)
                elif len(Path(folder).relative_to(root).parts) >= MAX_DEPTH:
                    inside.clear()

    def _summary(self, path: Path) -> dict[str, Any] | None:
        try:
            stat = path.stat()
        except FileNotFoundError:
            return None
        mark = (stat.st_mtime_ns, stat.st_size)
        if path not in self._read or self._read[path][0] != mark:
            self._read[path] = (mark, _read_summary(path.parent))
        return self._read[path][1]


def _outermost(roots: list[Path]) -> list[Path]:
    """The roots without those that lie inside another one: each folder is looked at once."""
    return [root for root in dict.fromkeys(roots) if not any(other in root.parents for other in roots)]


def _distinct(found: Found) -> list[dict[str, Any]]:
    """Summaries of what lies in object stores; once what lies under two roots."""
    return list({place.uri: _summary_of(place, manifest) for place, manifest in found}.values())


def _read_summary(folder: Path) -> dict[str, Any] | None:
    place = Place(folder)
    manifest = readable(place)
    return None if manifest is None else _summary_of(place, manifest)


def _summary_of(place: Place, manifest: Manifest) -> dict[str, Any]:
    splits = manifest.splits.values()
    return {
        "dataset_id": manifest.dataset_id,
        "content_id": manifest.content_id,
        "name": place.uri.rsplit("/", 1)[-1],
        "uri": place.uri,
        "num_samples": sum(s.num_samples for s in splits),
        "num_classes": len(manifest.classes),
        "num_quarantined": len(manifest.quarantine),
        "bytes": sum(f.size for s in splits for f in s.shards),
        "splits": {name: {"num_samples": s.num_samples} for name, s in manifest.splits.items()},
        "settings": {name: manifest.settings[name] for name in ("format", "payload", "side")},
        "created_at": manifest.created_at,
    }
