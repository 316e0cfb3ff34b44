"""The plan of a conversion: which samples form which shard. It is made once, put first, and binds every rerun.

Entries are sorted by key; a keyed hash of (seed, key) then orders them, so that shards mix classes. The listing
hash covers (key, label, size) in key order, the plan hash the same in plan order; neither covers where the bytes
lie, so archives and class folders of the same pictures have one plan.
"""

import hashlib
import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from ingest.errors import RefusedError
from ingest.progress import FORMAT_VERSION
from ingest.settings import IngestSettings, PlannedSettings
from ingest.sources import Entry, Source
from ingest.synsets import Synset, in_label_order

PLAN = "plan.json"
DEFAULT_SIDE = 256
ENTRIES = pa.schema(
    [
        ("key", pa.string()),
        ("label", pa.int32()),
        ("archive", pa.dictionary(pa.int32(), pa.string())),
        ("offset", pa.uint64()),
        ("length", pa.uint64()),
    ]
)


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
    tables = {}
    for split in source.splits():
        entries = _listed(source, split)
        if split == "train":
            _refuse_empty_classes(source, classes, entries)
        tables[split] = _table(_ordered(entries, settings), labels)
    record = {
        "format_version": FORMAT_VERSION,
        "settings": settings.content(),
        "classes": [s.wnid for s in classes],
        "splits": {split: len(table) for split, table in tables.items()},
        "listing_hash": rows_hash({split: table.sort_by("key") for split, table in tables.items()}),
        "plan_hash": rows_hash(tables),
        "pixel_fingerprint": fingerprint,
    }
    return Plan(record, tables, tuple(classes))


def shard_entries(table: pa.Table, number: int, samples_per_shard: int) -> list[PlannedEntry]:
    """The entries of one shard."""
    first = number * samples_per_shard
    rows = table.slice(first, samples_per_shard).to_pylist()
    return [
        PlannedEntry(
            Entry(r["key"], r["key"].rpartition("/")[0], r["archive"], r["offset"], r["length"]), first + i, r["label"]
        )
        for i, r in enumerate(rows)
    ]


def rows_hash(tables: dict[str, pa.Table]) -> str:
    """SHA-256 over (key, label, size) of the entries of each split, in the order given."""
    digest = hashlib.sha256()
    for split, table in tables.items():
        digest.update(f"{split}\n".encode())
        columns = (table.column(name).to_pylist() for name in ("key", "label", "length"))
        for key, label, length in zip(*columns, strict=True):
            digest.update(f"{key}\t{label}\t{length}\n".encode())
    return digest.hexdigest()


def plan_bytes(record: dict[str, Any]) -> bytes:
    """plan.json as it is put."""
    return json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False).encode() + b"\n"


def entries_bytes(table: pa.Table) -> bytes:
    """plan/entries-<split>.arrow as it is put."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks(), max_chunksize=65536)
    return bytes(sink.getvalue())


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


def _listed(source: Source, split: str) -> list[Entry]:
    """Entries in the source's own order, each key once."""
    entries = list(source.entries(split))
    if not entries:
        raise RefusedError(f"{source.place.uri}: split {split} holds no pictures ({source.layout})")
    seen: dict[str, Entry] = {}
    for entry in entries:
        if (other := seen.setdefault(entry.key, entry)) is not entry:
            raise RefusedError(
                f"{source.place.uri}: split {split} holds {entry.key} twice: in {other.archive} (at {other.offset}) and "
                f"in {entry.archive} (at {entry.offset}); a key is class and file name without extension, and must "
                "be unique: rename or remove one"
            )
    return entries


def _refuse_empty_classes(source: Source, classes: list[Synset], entries: list[Entry]) -> None:
    missing = {s.wnid for s in classes} - {e.wnid for e in entries}
    if missing:
        raise RefusedError(
            f"{source.place.uri}: {len(missing)} of {len(classes)} classes have no training picture, first "
            f"{min(missing)}; complete the source, or remove the class"
        )


def _ordered(entries: list[Entry], settings: PlannedSettings) -> list[Entry]:
    if settings.order == "source":
        return sorted(entries, key=lambda e: (e.archive, e.offset, e.key))
    seed = struct.pack("<Q", settings.seed)

    def place(entry: Entry) -> tuple[bytes, str]:
        return hashlib.blake2b(entry.key.encode(), digest_size=16, key=seed).digest(), entry.key

    return sorted(entries, key=place)


def _table(entries: list[Entry], labels: dict[str, int]) -> pa.Table:
    columns = [
        pa.array([e.key for e in entries], pa.string()),
        pa.array([labels.get(e.wnid, -1) for e in entries], pa.int32()),
        pa.array([e.archive for e in entries], pa.string()).dictionary_encode(),
        pa.array([e.offset for e in entries], pa.uint64()),
        pa.array([e.length for e in entries], pa.uint64()),
    ]
    return pa.Table.from_arrays(columns, schema=ENTRIES)
