"""One shard and what lies beside it, held against each other: its records, index rows, sums, report, side files.

Damage is told as closely as can be: by file, record, key and place in the file. The index rows beside the shard
say where its records lie; if they are damaged themselves, the dataset's index does.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from ingest.convert import INDEX_PART, content_sha256, part_path
from ingest.errors import DamageError
from ingest.formats import FORMATS
from ingest.formats.arrow import read_table
from ingest.formats.record import Bytes, IndexRows
from ingest.manifest import Manifest, ShardFile, StoredHash
from ingest.pixel_stats import PixelSums
from ingest.read_back import ReadBack, read_back
from ingest.storage import Place

MOST_NAMED = 8
"""Problems of one file that are told one by one; of more, the number is told."""
Damage = dict[str, str]


def damage(path: str, problem: str) -> Damage:
    """What is wrong with a file."""
    return {"path": path, "problem": problem}


@dataclass(frozen=True)
class ShardFiles:
    """A shard, and the paths of all that was written with it."""

    split: str
    number: int
    shard: ShardFile
    first_row: int
    """Where its rows begin in the index of the split."""
    paths: tuple[str, ...]

    def part(self, extension: str) -> str:
        return part_path(self.split, self.number, extension)

    def beside(self) -> Iterator[str]:
        """The side files of the shard itself."""
        yield from (p for p in self.paths if p != self.shard.path and not p.startswith("parts/"))


@dataclass
class ShardFindings:
    """What was found out about a shard; `sums` are those of its part file, if it has one that can be read."""

    damages: list[Damage] = field(default_factory=list)
    num_samples: int = 0
    sums: PixelSums | None = None
    lacks_sums: bool = False
    """It should have sums, but they cannot be read, or there are none of a training shard."""

    def add(self, path: str, problems: Iterator[str]) -> int:
        """Note what is wrong with a file; how many problems that were."""
        found = list(problems)
        told = found if len(found) <= MOST_NAMED else [*found[:MOST_NAMED], f"and {len(found) - MOST_NAMED:,} more"]
        self.damages += [damage(path, problem) for problem in told]
        return len(found)


def shard_files(manifest: Manifest) -> list[ShardFiles]:
    """Every shard of a dataset with what lies beside it."""
    by_stem: dict[str, list[str]] = {}
    for path in manifest.files:
        by_stem.setdefault(path.rpartition(".")[0], []).append(path)
    found = []
    for split, facts in manifest.splits.items():
        first_row = 0
        for number, shard in enumerate(facts.shards):
            stems = (shard.path.rpartition(".")[0], part_path(split, number, "").rstrip("."))
            paths = tuple(path for stem in stems for path in by_stem.get(stem, ()))
            found.append(ShardFiles(split, number, shard, first_row, paths))
            first_row += shard.num_samples
    return found


@dataclass(frozen=True)
class ShardCheck:
    """Checks the shards of a dataset, one a call; may be shared by threads.

    `indexes` are the tables of the splits' indexes as far as they can be read, `whole` the splits whose index is
    as recorded. `go_on` is called between records and may raise.
    """

    place: Place
    manifest: Manifest
    indexes: dict[str, pa.Table]
    whole: frozenset[str]
    deep: bool
    go_on: Callable[[], None]

    def __call__(self, files: ShardFiles) -> ShardFindings:
        """Read all files of a shard, once, and compare them."""
        found = ShardFindings()
        rows = self._rows(files, found)
        self._report(files, found)
        sums = self._sums(files, found)
        for path in files.beside():
            self._beside(path, rows, found)
        self._shard(files, rows, sums, found)
        return found

    def _read(self, path: str, found: ShardFindings) -> ReadBack:
        file = read_back(self.place, path, self._recorded(path), self.go_on)
        found.add(path, iter([file.problem] if file.problem else ()))
        return file

    def _recorded(self, path: str) -> StoredHash:
        return self.manifest.files[path]

    def _rows(self, files: ShardFiles, found: ShardFindings) -> IndexRows | None:
        """The rows of the shard: those beside it, or those of the index; None if neither is whole."""
        path = files.part("arrow")
        file = self._read(path, found)
        part = self._table(file, found)
        index = self._index_slice(files)
        if part is not None and index is not None:
            if file.problem:
                found.add(path, differences(part, index, "the index"))
            else:
                found.add(self.manifest.splits[files.split].index, differences(index, part, path))
        trusted = part if part is not None and not file.problem else index if files.split in self.whole else None
        return None if trusted is None else IndexRows.of(trusted)

    def _table(self, file: ReadBack, found: ShardFindings) -> pa.Table | None:
        if file.data is None:
            return None
        try:
            return read_table(file.data, INDEX_PART)
        except DamageError as error:
            found.add(file.path, iter([error.message]))
            return None

    def _index_slice(self, files: ShardFiles) -> pa.Table | None:
        index = self.indexes.get(files.split)
        return None if index is None else index.slice(files.first_row, files.shard.num_samples)

    def _report(self, files: ShardFiles, found: ShardFindings) -> None:
        """The report states what the manifest states."""
        path = files.part("json")
        file = self._read(path, found)
        if file.whole is None:
            return
        report = json.loads(file.whole.tobytes())
        stated = files.shard.model_dump()
        wrong = [name for name in stated if report.get(name) != stated[name]]
        found.add(path, (f"states {name} {report.get(name)}, the manifest {stated[name]}" for name in wrong))

    def _sums(self, files: ShardFiles, found: ShardFindings) -> PixelSums | None:
        """The sums beside a training shard, if they are whole."""
        path = files.part("npz")
        if path not in files.paths:
            found.lacks_sums = files.split == "train"
            return None
        file = self._read(path, found)
        if file.whole is not None:
            found.sums = PixelSums.from_bytes(file.whole.tobytes())
        found.lacks_sums = found.sums is None
        return found.sums

    def _beside(self, path: str, rows: IndexRows | None, found: ShardFindings) -> None:
        file = self._read(path, found)
        if file.data is not None and rows is not None:
            format_ = FORMATS[self.manifest.settings["format"]]
            found.add(path, format_.check_beside(path.rpartition(".")[2], file.data, rows))

    def _shard(self, files: ShardFiles, rows: IndexRows | None, sums: PixelSums | None, found: ShardFindings) -> None:
        path, settings = files.shard.path, self.manifest.settings
        file = self._read(path, found)
        if file.data is None or rows is None:
            return
        found.num_samples = len(rows)
        wnids = [c.wnid for c in self.manifest.classes]
        format_ = FORMATS[settings["format"]]
        if found.add(path, format_.check(file.data, rows, settings["payload"], wnids)):
            return
        if file.problem:
            found.add(path, iter(["no record is affected: the damage lies outside of them (header, padding, footer)"]))
        elif content_sha256(_stated(rows)) != files.shard.content_sha256:
            found.add(path, iter(["holds other samples than the manifest states (content_sha256)"]))
        if self.deep and sums is not None and settings["payload"] == "raw":
            found.add(files.part("npz"), self._summed(file.data, rows, sums, path))

    def _summed(self, data: Bytes, rows: IndexRows, wanted: PixelSums, path: str) -> Iterator[str]:
        """The sums again, from the stored pixels (raw payloads: a JPEG is not what was summed)."""
        sums, side = PixelSums(wanted.side), wanted.side
        for number in range(len(rows)):
            self.go_on()
            sums.add(np.asarray(rows.payload(number, data)).reshape(side, side, 3))
        if sums.digest() != wanted.digest():
            yield f"is not the sum of the stored pixels of {path}"


def _stated(rows: IndexRows) -> Iterator[tuple[str, int, int, int]]:
    """What the content hash covers of each record; that the payloads have these checksums is checked before."""
    return zip(rows.keys, rows.labels, rows.lengths, rows.checksums, strict=True)


def differences(found: pa.Table, wanted: pa.Table, whose: str) -> Iterator[str]:
    """Where index rows differ from those that `whose` states, in words: row, key, column, both values."""
    found, wanted = found.select(INDEX_PART.names), wanted.select(INDEX_PART.names)
    if found.equals(wanted):
        return
    if len(found) != len(wanted):
        yield f"has {len(found)} rows where {whose} has {len(wanted)}"
    keys = wanted.column("key").to_pylist()
    for name in INDEX_PART.names:
        pairs = zip(found.column(name).to_pylist(), wanted.column(name).to_pylist(), strict=False)
        for row, (value, expected) in enumerate(pairs):
            if value != expected:
                yield f"row {row} ({keys[row]}): has {name} {value!r}, {whose} states {expected!r}"
