"""The plan of a conversion: which samples form which shard. It is made once, put first, and binds every rerun.

Entries are sorted by key; a keyed hash of (seed, key) then orders them, so that shards mix classes. The listing
hash covers (key, label, size) in key order, the plan hash the same in plan order; neither covers where the bytes
lie, so archives and class folders of the same pictures have one plan.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from ingest.listing import (
    CHUNK,
    RowsHash,
    by_key,
    in_source_order,
    listed,
    refuse_empty_classes,
    refuse_twice,
    rows_hash,
    shuffled,
    taken,
)
from ingest.progress import FORMAT_VERSION
from ingest.settings import IngestSettings, PlannedSettings
from ingest.sources import Entry, Source
from ingest.synsets import Synset, in_label_order

PLAN = "plan.json"
DEFAULT_SIDE = 256


@dataclass(frozen=True)
class Plan:
    """The facts that determine the bytes of a dataset, and the entries of each split in plan order.

    `record` is plan.json; `entries` maps a split to a table with the columns of `ENTRIES`; `classes` are in label
    order (their words are for people, and outside every hash).
    """

    record: dict[str, Any]
    entries: dict[str, pa.Table]
    classes: tuple[Synset, ...]

    @property
    def settings(self) -> PlannedSettings:
        """The content settings, with nothing left open."""
        return PlannedSettings.model_validate(self.record["settings"])

    @property
    def samples_per_shard(self) -> int:
        return int(self.record["settings"]["samples_per_shard"])

    @property
    def num_entries(self) -> int:
        return sum(len(t) for t in self.entries.values())

    @property
    def wnids(self) -> list[str]:
        """Class names; position = label."""
        return list(self.record["classes"])

    def num_shards(self, split: str) -> int:
        return -(-len(self.entries[split]) // self.samples_per_shard)

    def shard_rows(self, split: str, number: int) -> tuple[int, pa.Table]:
        """The rows of a shard, and which row of the split comes first."""
        first = number * self.samples_per_shard
        return first, self.entries[split].slice(first, self.samples_per_shard)

    def shards(self) -> Iterator[tuple[str, int]]:
        """(split, number) of every shard."""
        for split in self.entries:
            yield from ((split, number) for number in range(self.num_shards(split)))


@dataclass(frozen=True, slots=True)
class PlannedEntry:
    """An entry at its place in the plan: its row in the split, and its label (-1 without)."""

    entry: Entry
    row: int
    label: int


def planned(settings: IngestSettings, source: Source) -> PlannedSettings:
    """The settings with what was left open filled in from the source."""
    values = settings.model_dump()
    values["side"] = settings.side or source.side or DEFAULT_SIDE
    values["order"] = settings.order or ("source" if source.in_order else "shuffled")
    return PlannedSettings.model_validate(values)


def make_plan(source: Source, chosen: IngestSettings, fingerprint: str) -> Plan:
    """List a source and order it. Raises RefusedError: no pictures, a key that appears twice."""
    settings = planned(chosen, source)
    classes = in_label_order(source.synsets(), settings.label_order)
    labels = {synset.wnid: label for label, synset in enumerate(classes)}
    tables, listing = {}, RowsHash()
    for split in source.splits():
        table = listed(source, split, labels)
        keys_sorted = by_key(table)
        refuse_twice(source, split, table, keys_sorted)
        if split == "train":
            refuse_empty_classes(source, classes, table)
        listing.add(split, table, keys_sorted)
        order = in_source_order(table) if settings.order == "source" else shuffled(table, settings.seed)
        columns = dict(zip(table.column_names, table.columns, strict=True))
        del table
        tables[split] = taken(columns, order)
    record = {
        "format_version": FORMAT_VERSION,
        "settings": settings.content(),
        "classes": [s.wnid for s in classes],
        "splits": {split: len(table) for split, table in tables.items()},
        "listing_hash": listing.hexdigest(),
        "plan_hash": rows_hash(tables),
        "pixel_fingerprint": fingerprint,
    }
    return Plan(record, tables, tuple(classes))


def rows_bytes(rows: pa.Table) -> bytes:
    """Rows of a plan as an Arrow stream, for a process on another node."""
    archives = rows.column("archive").cast(pa.string())  # without the names of all the others
    rows = rows.set_column(rows.schema.get_field_index("archive"), "archive", archives)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    return bytes(sink.getvalue())


def planned_entries(data: bytes, first: int) -> list[PlannedEntry]:
    """The entries of an Arrow stream whose first row is row `first` of its split."""
    rows = pa.ipc.open_stream(data).read_all().to_pylist()
    return [
        PlannedEntry(
            Entry(r["key"], r["key"].rpartition("/")[0], r["archive"], r["offset"], r["length"]), first + i, r["label"]
        )
        for i, r in enumerate(rows)
    ]


def plan_bytes(record: dict[str, Any]) -> bytes:
    """plan.json as it is put."""
    return json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False).encode() + b"\n"


def entries_bytes(table: pa.Table) -> memoryview:
    """plan/entries-<split>.arrow as it is put."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks(), max_chunksize=CHUNK)
    return memoryview(sink.getvalue()).cast("B")


def differences(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """Where a plan.json that was found differs from the plan of this run, in words."""
    if found.get("format_version") != wanted["format_version"]:
        return [f"format version {found.get('format_version')}, this run writes {wanted['format_version']}"]
    said = []
    before, now = found["settings"], wanted["settings"]
    for name in sorted(set(before) | set(now)):
        if before.get(name) != now.get(name):
            said.append(f"--{name.replace('_', '-')} was {before.get(name)}, now {now.get(name)}")
    if found["classes"] != wanted["classes"]:
        said.append(f"the source had {len(found['classes'])} classes, now {len(wanted['classes'])} or other ones")
    for split in sorted(set(found["splits"]) | set(wanted["splits"])):
        if found["splits"].get(split) != wanted["splits"].get(split):
            said.append(
                f"split {split} had {found['splits'].get(split, 'no')} pictures, "
                f"now {wanted['splits'].get(split, 'none')}"
            )
    if found["pixel_fingerprint"] != wanted["pixel_fingerprint"]:
        said.append("the imaging library gives other pixels than the one that began this dataset")
    if not said and found["listing_hash"] != wanted["listing_hash"]:
        said.append("the source lists other keys, labels or sizes than before")
    if not said and found["plan_hash"] != wanted["plan_hash"]:
        said.append("the source stores its pictures in another order than before")
    return said
