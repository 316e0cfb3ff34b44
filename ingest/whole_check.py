"""What belongs to no single shard, held against each other: plan, indexes, statistics, quarantine, manifest."""

import io
import json
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from ingest.errors import DamageError
from ingest.formats.arrow import read_table
from ingest.key_check import key_differences
from ingest.listing import ENTRIES, rows_hash
from ingest.manifest import MANIFEST, Manifest
from ingest.pixel_stats import PixelSums, mean_image, rgb_pca
from ingest.plan import PLAN
from ingest.quarantine import verdict_path
from ingest.read_back import ReadBack
from ingest.seal import INDEX, SUMS
from ingest.shard_check import Damage, damage
from ingest.sources.entry import SPLITS

TOLERANCE = 1e-9
Tables = dict[str, pa.Table]
"""Of index rows, or of the plan's entries, by split."""


class WholeCheck:
    """`files` are those that belong to no single shard, as read back."""

    def __init__(self, manifest: Manifest, files: dict[str, ReadBack]) -> None:
        self._manifest, self._files = manifest, files
        self._unreadable: list[Damage] = []
        self.indexes = self._tables({s: f.index for s, f in manifest.splits.items()}, INDEX)
        self.entries = self._tables({s: _entries_path(s) for s in manifest.splits}, ENTRIES)
        self.whole_indexes = frozenset(
            s for s, f in manifest.splits.items() if s in self.indexes and not files[f.index].problem
        )

    def damages(self) -> Iterator[Damage]:
        """All that is wrong with them, but for the statistics."""
        yield from (damage(file.path, file.problem) for file in self._files.values() if file.problem)
        yield from self._unreadable
        yield from self._plan()
        for split in self._manifest.splits:
            if split in self.whole_indexes:
                yield from self._places(split)
                yield from self._class_counts(split)
            if split in self.whole_indexes and split in self.entries:
                yield from self._completeness(split)
        yield from self._quarantine()

    def statistics(self, summed: PixelSums | None) -> Iterator[Damage]:
        """Sums, mean and PCA follow from the shards' sums, up to the last bits of another processor."""
        data = self._whole(SUMS)
        if data is None:
            return
        sums = PixelSums.from_bytes(data)
        if sums.digest() != self._manifest.sums_sha256:
            yield damage(SUMS, "other sums than the manifest states")
        if summed is not None and summed.digest() != sums.digest():
            yield damage(SUMS, "is not the total of the sums beside the training shards")
        mean, pca = self._whole("statistics/mean.npy"), self._whole("statistics/pca.json")
        if mean is not None and not _close(np.load(io.BytesIO(mean), allow_pickle=False), mean_image(sums), TOLERANCE):
            yield damage("statistics/mean.npy", "does not follow from the sums")
        if pca is not None:
            yield from _pca_damages(json.loads(pca), sums)

    def _tables(self, paths: dict[str, str], schema: pa.Schema) -> Tables:
        """As many as can be read, damaged or not."""
        tables = {}
        for split, path in paths.items():
            if (data := self._files[path].data) is not None:
                try:
                    tables[split] = read_table(data, schema)
                except DamageError as error:
                    self._unreadable.append(damage(path, error.message))
        return tables

    def _whole(self, path: str) -> bytes | None:
        data = self._files[path].whole
        return None if data is None else data.tobytes()

    def _plan(self) -> Iterator[Damage]:
        """plan.json says what the manifest says, and the entries of the splits are those of the plan hash."""
        if (data := self._whole(PLAN)) is not None:
            plan = json.loads(data)
            for name in ("settings", "plan_hash", "listing_hash", "pixel_fingerprint"):
                if plan.get(name) != getattr(self._manifest, name):
                    yield damage(PLAN, f"states another {name} than the manifest")
        paths = [_entries_path(split) for split in self._manifest.splits]
        if any(self._files[path].problem for path in paths) or set(self.entries) != set(self._manifest.splits):
            return
        if rows_hash({s: self.entries[s] for s in SPLITS if s in self.entries}) != self._manifest.plan_hash:
            yield damage(PLAN, f"its entries ({', '.join(paths)}) do not have its plan hash")

    def _places(self, split: str) -> Iterator[Damage]:
        """The index has the rows of each shard, one shard behind the other."""
        index, facts = self.indexes[split], self._manifest.splits[split]
        wanted = np.repeat(np.arange(len(facts.shards)), [s.num_samples for s in facts.shards])
        found = index.column("shard").to_numpy()
        if len(found) != len(wanted):
            yield damage(facts.index, f"has {len(found)} rows; {len(wanted)} samples were sealed")
        elif (wrong := np.flatnonzero(found != wanted)).size:
            row, key = int(wrong[0]), index.column("key")[int(wrong[0])]
            yield damage(facts.index, f"row {row} ({key}): has shard {found[row]}, expected {wanted[row]}")

    def _class_counts(self, split: str) -> Iterator[Damage]:
        facts, classes = self._manifest.splits[split], self._manifest.classes
        labels = self.indexes[split].column("label").to_numpy()
        counts = np.bincount(labels[labels >= 0], minlength=len(classes)).tolist()
        for label, (found, stated) in enumerate(zip(counts, facts.class_counts, strict=False)):
            if found != stated:
                yield damage(facts.index, f"has {found} samples of {classes[label].wnid}, the manifest states {stated}")
        if len(counts) != len(facts.class_counts):
            yield damage(facts.index, f"has label {len(counts) - 1}, the dataset {len(classes)} classes")

    def _completeness(self, split: str) -> Iterator[Damage]:
        """Every entry of the plan is in exactly one shard or in quarantine, with its label."""
        path, facts = _entries_path(split), self._manifest.splits[split]
        keys = self.entries[split].column("key").to_pylist()
        bad = {q.row: q.key for q in self._manifest.quarantine if q.split == split}
        planned = list(_pairs(self.entries[split]))
        wanted = [pair for row, pair in enumerate(planned) if row not in bad]
        found = list(_pairs(self.indexes[split]))
        if self._files[path].problem:
            yield from (damage(path, f"against the index: {w}") for w in key_differences(wanted, found, "label"))
            return
        yield from (damage(facts.index, f"against the plan: {w}") for w in key_differences(found, wanted, "label"))
        for row, key in bad.items():
            if row >= len(keys) or keys[row] != key:
                yield damage(MANIFEST, f"quarantine names {key} at row {row} of {split}, the plan does not")

    def _quarantine(self) -> Iterator[Damage]:
        """Every verdict is that of the manifest."""
        for bad in self._manifest.quarantine:
            path = f"{verdict_path(bad.split, bad.row)}.json"
            if (data := self._whole(path)) is not None:
                verdict = json.loads(data)
                if any(verdict[name] != value for name, value in bad.model_dump().items()):
                    yield damage(path, f"is another verdict than the manifest's on {bad.key}: {bad.code}")


def _entries_path(split: str) -> str:
    return f"plan/entries-{split}.arrow"


def _pairs(table: pa.Table) -> Iterable[tuple[str, int]]:
    return zip(table.column("key").to_pylist(), table.column("label").to_pylist(), strict=True)


def _pca_damages(record: dict[str, Any], sums: PixelSums) -> Iterator[Damage]:
    pca = rgb_pca(sums)
    wanted = {"eigenvalues": pca.eigenvalues, "eigenvectors_columns": pca.eigenvectors, "covariance": pca.covariance}
    for name, values in wanted.items():
        if not _close(np.array(record[name], np.float64), values, 1e-6):
            yield damage("statistics/pca.json", f"{name} do not follow from the sums")


def _close(found: Any, wanted: Any, tolerance: float) -> bool:
    return found.shape == wanted.shape and bool(np.allclose(found, wanted, rtol=tolerance, atol=tolerance))
