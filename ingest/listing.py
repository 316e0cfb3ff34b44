"""A split of a source as columns: every key once, hashed row by row, and put into an order.

Written for 14 million entries: whole columns at a time, so that memory stays at a few copies of the keys.
"""

import hashlib
import struct
from collections.abc import Iterator, Mapping
from itertools import islice, pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ingest.errors import RefusedError
from ingest.sources import Source
from ingest.synsets import Synset

ENTRIES = pa.schema(
    [
        ("key", pa.string()),
        ("label", pa.int32()),
        ("archive", pa.dictionary(pa.int32(), pa.string())),
        ("offset", pa.uint64()),
        ("length", pa.uint64()),
    ]
)
CHUNK = 2**16
Indices = npt.NDArray[Any]


def listed(source: Source, split: str, labels: Mapping[str, int]) -> pa.Table:
    """The entries of a split in the source's own order, with the columns of `ENTRIES`. Raises RefusedError: none."""
    entries = source.entries(split)
    archives: dict[str, int] = {}
    columns: dict[str, list[pa.Array]] = {name: [] for name in ENTRIES.names}
    while chunk := list(islice(entries, CHUNK)):
        columns["key"].append(pa.array([e.key for e in chunk], pa.string()))
        columns["label"].append(pa.array([labels.get(e.wnid, -1) for e in chunk], pa.int32()))
        numbers = [archives.setdefault(e.archive, len(archives)) for e in chunk]
        columns["archive"].append(pa.array(numbers, pa.int32()))
        columns["offset"].append(pa.array([e.offset for e in chunk], pa.uint64()))
        columns["length"].append(pa.array([e.length for e in chunk], pa.uint64()))
    if not archives:
        raise RefusedError(f"{source.place.uri}: split {split} holds no pictures ({source.layout})")
    names = pa.array(list(archives), pa.string())
    columns["archive"] = [pa.DictionaryArray.from_arrays(numbers, names) for numbers in columns["archive"]]
    joined = [pa.concat_arrays(columns.pop(name)) for name in ENTRIES.names]  # each let go once it is copied
    return pa.table(joined, schema=ENTRIES)


def by_key(table: pa.Table) -> Indices:
    """Row numbers in the order of the keys."""
    order: Indices = pc.sort_indices(table.column("key")).to_numpy()
    return order


def in_source_order(table: pa.Table) -> Indices:
    """Row numbers as archives and offsets follow each other."""
    plain = pa.table(
        {n: pc.cast(table[n], pa.string()) if n == "archive" else table[n] for n in ("archive", "offset", "key")}
    )
    order: Indices = pc.sort_indices(plain, [(n, "ascending") for n in plain.column_names]).to_numpy()
    return order


def shuffled(table: pa.Table, seed: int) -> Indices:
    """Row numbers in the order of a keyed 128-bit hash of (seed, key)."""
    packed, hashed = struct.pack("<Q", seed), hashlib.blake2b
    halves = np.empty((2, len(table)), np.uint64)
    row = 0
    for keys in _keys(table.column("key")):
        digests = b"".join([hashed(key, digest_size=16, key=packed).digest() for key in keys])
        halves[:, row : row + len(keys)] = np.frombuffer(digests, ">u8").reshape(-1, 2).T
        row += len(keys)
    order: Indices = np.lexsort((halves[1], halves[0]))
    return order


def _keys(column: pa.ChunkedArray) -> Iterator[list[bytes]]:
    """The keys as they are encoded, many at a time."""
    for chunk in column.chunks:
        for first in range(0, len(chunk), CHUNK):
            part = chunk.slice(first, CHUNK)
            ends = np.frombuffer(part.buffers()[1], np.int32)[part.offset : part.offset + len(part) + 1]
            text = bytes(memoryview(part.buffers()[2])[ends[0] : ends[-1]])
            bounds = (ends - ends[0]).tolist()
            yield [text[a:b] for a, b in pairwise(bounds)]


def refuse_twice(source: Source, split: str, table: pa.Table, order: Indices) -> None:
    """Raise RefusedError if a key appears twice; `order` is that of the keys."""
    keys = table.column("key")
    for first in range(0, len(order), CHUNK):
        part = keys.take(pa.array(order[first : first + CHUNK + 1]))
        same = np.flatnonzero(pc.equal(part[1:], part[:-1]).to_numpy(zero_copy_only=False))
        if len(same):
            at = first + int(same[0])
            one, other = sorted(order[at : at + 2])
            places = [table.slice(int(row), 1).to_pylist()[0] for row in (one, other)]
            raise RefusedError(
                f"{source.place.uri}: split {split} holds {places[0]['key']} twice: in {places[0]['archive']} (at "
                f"{places[0]['offset']}) and in {places[1]['archive']} (at {places[1]['offset']}); a key is class and "
                "file name without extension, and must be unique: rename or remove one"
            )


def refuse_empty_classes(source: Source, classes: list[Synset], table: pa.Table) -> None:
    """Raise RefusedError if a class has no training picture."""
    found = table.column("label").to_numpy()
    counts = np.bincount(found[found >= 0], minlength=len(classes))
    missing = [classes[label].wnid for label in np.flatnonzero(counts == 0)]
    if missing:
        raise RefusedError(
            f"{source.place.uri}: {len(missing)} of {len(classes)} classes have no training picture, first "
            f"{min(missing)}; complete the source, or remove the class"
        )


def taken(columns: dict[str, pa.ChunkedArray], order: Indices) -> pa.Table:
    """The rows of a table's columns in an order. Each column is let go as soon as it has been copied."""
    rows = pa.array(order)
    return pa.table({name: columns.pop(name).take(rows) for name in ENTRIES.names}, schema=ENTRIES)


class RowsHash:
    """SHA-256 over (key, label, size) of the entries of each split."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, split: str, table: pa.Table, order: Indices | None = None) -> None:
        """Go on with a split, its rows as they are or in an order."""
        self._digest.update(f"{split}\n".encode())
        for lines in _lines(table.select(["key", "label", "length"]), order):
            self._digest.update(lines)

    def hexdigest(self) -> str:
        """The hash of all that was added."""
        return self._digest.hexdigest()


def rows_hash(tables: Mapping[str, pa.Table]) -> str:
    """SHA-256 over (key, label, size) of the entries of each split, in the order of the rows."""
    total = RowsHash()
    for split, table in tables.items():
        total.add(split, table)
    return total.hexdigest()


def _lines(table: pa.Table, order: Indices | None) -> Iterator[Any]:
    """The text of many rows at a time: `key<tab>label<tab>length<newline>` for each."""
    for first in range(0, len(table), CHUNK):
        rows = table.slice(first, CHUNK) if order is None else table.take(pa.array(order[first : first + CHUNK]))
        texts = [pc.cast(rows.column(n), pa.string()) for n in ("key", "label", "length")]
        joined = pc.binary_join_element_wise(pc.binary_join_element_wise(*texts, "\t"), "", "\n")
        for chunk in joined.chunks:
            offsets = np.frombuffer(chunk.buffers()[1], np.int32)[chunk.offset : chunk.offset + len(chunk) + 1]
            yield memoryview(chunk.buffers()[2])[offsets[0] : offsets[-1]]
