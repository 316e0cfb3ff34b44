"""Keys, labels and sizes of two lists of samples, compared by key: a dataset with its plan, or with a source."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from ingest.manifest import Manifest
from ingest.plan import Plan, make_plan
from ingest.settings import PlannedSettings
from ingest.sources import Source
from ingest.words import counted

NAMED = 3
"""Keys that are named of those with one problem; of the others, the number is told."""
Pair = tuple[str, Any]


def key_differences(found: Sequence[Pair], wanted: Sequence[Pair], value: str) -> Iterator[str]:
    """Where (key, value) pairs differ from those expected: missing, extra, twice, another value, another order."""
    if found == wanted:
        return
    now, before = dict(found), dict(wanted)
    kinds = {
        "missing": [key for key in before if key not in now],
        "extra": [key for key in now if key not in before],
        "there twice": [key for key, number in Counter(key for key, _ in found).items() if number > 1],
        f"of another {value}": [
            f"{key} ({now[key]}, expected {before[key]})" for key in before if key in now and now[key] != before[key]
        ],
    }
    yield from (_named(what, keys) for what, keys in kinds.items() if keys)
    if not any(kinds.values()):
        first = next(w for w, f in zip(wanted, found, strict=True) if w != f)
        yield f"the same keys are in another order, first {first[0]}"


def source_plan(source: Source, manifest: Manifest) -> Plan:
    """What a source would be planned as with a dataset's own settings. Raises RefusedError."""
    settings = PlannedSettings.model_validate(manifest.settings)
    return make_plan(source, settings, manifest.pixel_fingerprint)


def source_differences(manifest: Manifest, entries: dict[str, pa.Table], plan: Plan) -> Iterator[str]:
    """Where a source's plan differs from the entries of a dataset's splits, in words."""
    classes = [c.wnid for c in manifest.classes]
    if plan.wnids != classes:
        yield from (f"classes: {words}" for words in key_differences(_once(plan.wnids), _once(classes), "place"))
    for split in sorted(set(plan.entries) ^ set(manifest.splits)):
        yield f"split {split}: is {'not in the source' if split in manifest.splits else 'only in the source'}"
    for split, table in entries.items():
        if (listed := plan.entries.get(split)) is None:
            continue
        found, wanted = _by_key(listed), _by_key(table)
        named = (_labelled(found, plan.wnids), _labelled(wanted, classes))
        sized = (_sized(found), _sized(wanted))
        for words in (*key_differences(*named, "class"), *_only_values(*sized)):
            yield f"split {split}: {words}"


def _named(what: str, keys: Sequence[str]) -> str:
    more = f" and {len(keys) - NAMED:,} more" if len(keys) > NAMED else ""
    return f"{counted(len(keys), 'key')} {what}: {', '.join(keys[:NAMED])}{more}"


def _only_values(found: Sequence[Pair], wanted: Sequence[Pair]) -> Iterator[str]:
    """Other sizes of the keys that are in both."""
    now, before = dict(found), dict(wanted)
    common = [key for key in before if key in now]
    yield from key_differences([(k, now[k]) for k in common], [(k, before[k]) for k in common], "size in bytes")


def _once(names: Sequence[str]) -> list[Pair]:
    return [(name, place) for place, name in enumerate(names)]


def _by_key(table: pa.Table) -> pa.Table:
    return table.select(["key", "label", "length"]).sort_by("key")


def _labelled(table: pa.Table, classes: Sequence[str]) -> list[Pair]:
    """(key, class) of each entry; the empty text without label."""
    labels = table.column("label").to_pylist()
    return [
        (key, classes[label] if 0 <= label < len(classes) else "")
        for key, label in zip(table.column("key").to_pylist(), labels, strict=True)
    ]


def _sized(table: pa.Table) -> list[Pair]:
    return list(zip(table.column("key").to_pylist(), table.column("length").to_pylist(), strict=True))
