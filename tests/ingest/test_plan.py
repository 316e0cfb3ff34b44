"""The plan: every entry in exactly one shard, whatever order it is listed in; and what differs from it is named."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.errors import RefusedError
from ingest.plan import Plan, PlannedEntry, make_plan, planned_entries, rows_bytes
from ingest.run import plan_only
from ingest.settings import IngestSettings
from ingest.sources import Entry
from ingest.storage import Place
from ingest.synsets import Synset
from tests.conftest import TinySource
from tests.ingest.conftest import Convert


@dataclass(frozen=True)
class Listing:
    """A source that lists these entries as its training split."""

    listed: list[Entry]
    layout: str = "a list"
    place: Place = Place("/nowhere")  # noqa: RUF009 - nothing is read
    side: int | None = None
    in_order: bool = False

    def splits(self) -> tuple[str, ...]:
        return ("train",)

    def synsets(self) -> list[Synset]:
        return [Synset(wnid) for wnid in sorted({e.wnid for e in self.listed})]

    def entries(self, split: str) -> Iterator[Entry]:
        return iter(self.listed)


KEYS = st.tuples(st.sampled_from(["n1", "n2", "n3"]), st.text("abcé_0", min_size=1, max_size=6))
LISTINGS = st.lists(KEYS, min_size=1, max_size=40, unique=True).map(
    lambda keys: [Entry(f"{w}/{name}", w, f"{w}.tar", 512 * at, 10 + at) for at, (w, name) in enumerate(keys)]
)


def _plan(listed: list[Entry], **chosen: Any) -> Plan:
    source: Any = Listing(listed)
    return make_plan(source, IngestSettings.model_validate(chosen), "0" * 64)


def _shard(plan: Plan, number: int) -> list[PlannedEntry]:
    """A shard's entries, after their way to an actor."""
    first, rows = plan.shard_rows("train", number)
    return planned_entries(rows_bytes(rows), first)


def _numbered(pictures: int) -> list[Entry]:
    return [Entry(f"n{at % 10}/{at}", f"n{at % 10}", "a.tar", at, 1) for at in range(pictures)]


@settings(max_examples=50, deadline=None)
@given(LISTINGS, st.integers(1, 50), st.integers(0, 2**63 - 1))
def test_every_entry_is_in_exactly_one_shard(listed: list[Entry], samples_per_shard: int, seed: int) -> None:
    plan = _plan(listed, samples_per_shard=samples_per_shard, seed=seed)
    shards = [_shard(plan, number) for _, number in plan.shards()]
    planned = [entry for shard in shards for entry in shard]
    assert sorted((p.entry for p in planned), key=lambda e: e.offset) == listed
    assert [p.row for p in planned] == list(range(len(listed)))
    assert [plan.wnids[p.label] for p in planned] == [p.entry.wnid for p in planned]
    assert all(len(shard) == samples_per_shard for shard in shards[:-1])
    assert 0 < len(shards[-1]) <= samples_per_shard


@settings(max_examples=50, deadline=None)
@given(LISTINGS.flatmap(lambda listed: st.tuples(st.just(listed), st.permutations(listed))))
def test_the_plan_does_not_depend_on_the_order_of_listing(listings: tuple[list[Entry], list[Entry]]) -> None:
    for order in ("shuffled", "source"):
        first, second = (_plan(listed, order=order) for listed in listings)
        assert first.record == second.record
        assert first.entries["train"].to_pylist() == second.entries["train"].to_pylist()


@settings(max_examples=50, deadline=None)
@given(LISTINGS)
def test_the_plan_hash_covers_keys_and_sizes_and_not_where_the_bytes_lie(listed: list[Entry]) -> None:
    first = listed[0]
    moved = [Entry(e.key, e.wnid, "elsewhere", 7, e.length) for e in listed]
    grown = [Entry(first.key, first.wnid, first.archive, first.offset, first.length + 1), *listed[1:]]
    renamed = [Entry(f"{first.key}!", first.wnid, first.archive, first.offset, first.length), *listed[1:]]
    wanted = _plan(listed).record
    assert _plan(moved).record == wanted
    for other in (grown, renamed):
        assert {_plan(other).record[name] for name in ("plan_hash", "listing_hash")}.isdisjoint(
            {wanted["plan_hash"], wanted["listing_hash"]}
        )


def test_another_seed_is_another_order_of_the_same_listing() -> None:
    first, second = (_plan(_numbered(100), seed=seed) for seed in (0, 1))
    assert first.record["listing_hash"] == second.record["listing_hash"]
    assert first.record["plan_hash"] != second.record["plan_hash"]


def test_shards_mix_classes_and_the_order_of_the_source_is_kept_on_demand() -> None:
    listed = [Entry(f"n{at // 100}/{at}", f"n{at // 100}", "a.tar", at * 512, 1) for at in range(1000)]
    mixed = _shard(_plan(listed, samples_per_shard=100), 0)
    assert {p.label for p in mixed} == set(range(10))
    kept = _shard(_plan(listed, order="source", samples_per_shard=100), 0)
    assert [p.entry for p in kept] == listed[:100]


@settings(max_examples=50, deadline=None)
@given(LISTINGS, st.data())
def test_a_key_that_comes_twice_is_refused_with_both_places(listed: list[Entry], data: st.DataObject) -> None:
    twice = data.draw(st.sampled_from(listed))
    again = Entry(twice.key, twice.wnid, "other.tar", 99, 1)
    with pytest.raises(RefusedError) as refused:
        _plan([*listed, again])
    for words in (f"holds {twice.key} twice", f"{twice.archive} (at {twice.offset})", "other.tar (at 99)"):
        assert words in refused.value.message


@settings(max_examples=10, deadline=None)
@given(LISTINGS)
def test_ilsvrc_order_is_refused_for_classes_without_a_number(listed: list[Entry]) -> None:
    with pytest.raises(RefusedError, match=r"--label-order ilsvrc: class n\d has no ILSVRC_ID"):
        _plan(listed, label_order="ilsvrc")


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        ({"seed": 1}, "--seed was 0, now 1"),
        ({"samples_per_shard": 8}, "--samples-per-shard was 16, now 8"),
        ({"format": "tfrecord", "quality": 91}, "--format was arrow, now tfrecord; --quality was 90, now 91"),
    ],
)
def test_a_rerun_with_other_settings_is_refused_and_names_them(
    chosen: dict[str, Any], words: str, tiny_source: TinySource, tiny_dataset: str, convert: Convert
) -> None:
    with pytest.raises(RefusedError, match=words) as refused:
        convert(tiny_source.folders, tiny_dataset, **chosen)
    assert refused.value.exit_code == 3
    with pytest.raises(RefusedError, match=words):
        plan_only(
            str(tiny_source.folders), tiny_dataset, IngestSettings.model_validate({"samples_per_shard": 16} | chosen)
        )


def test_a_rerun_from_another_source_is_refused_and_names_what_differs(
    tiny_source: TinySource, tiny_dataset: str, convert: Convert, tmp_path: Path
) -> None:
    files = list(tiny_source.folders.rglob("*.JPEG"))
    for path in files:
        other = tmp_path / path.relative_to(tiny_source.folders)
        other.parent.mkdir(parents=True, exist_ok=True)
        other.write_bytes(path.read_bytes())
    picture = next((tmp_path / "train/n90000023").iterdir())
    picture.rename(picture.with_name("renamed.JPEG"))
    with pytest.raises(RefusedError, match="the source lists other keys, labels or sizes than before"):
        convert(tmp_path, tiny_dataset)
    picture.with_name("renamed.JPEG").unlink()
    with pytest.raises(RefusedError, match="split train had 60 pictures, now 59"):
        convert(tmp_path, tiny_dataset)
    with pytest.raises(RefusedError, match="split val had 30 pictures, now none"):
        convert(tmp_path / "train", tiny_dataset)


def test_a_dataset_begun_by_an_imaging_library_of_other_pixels_is_refused(
    tiny_source: TinySource, tiny_dataset: str, unsealed: Callable[[str], Path], convert: Convert
) -> None:
    dataset = unsealed(tiny_dataset)
    record = json.loads((dataset / "plan.json").read_text())
    (dataset / "plan.json").write_text(json.dumps(record | {"pixel_fingerprint": "f" * 64}))
    with pytest.raises(RefusedError, match="the imaging library gives other pixels"):
        convert(tiny_source.folders, dataset)


def test_a_target_that_is_not_empty_or_lies_in_the_source_is_refused(
    tiny_source: TinySource, convert: Convert, tmp_path: Path
) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(RefusedError, match="is not empty and holds no dataset of Tench"):
        convert(tiny_source.folders, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]
    with pytest.raises(RefusedError, match="lies inside the source"):
        convert(tiny_source.folders, tiny_source.folders / "dataset")


def test_a_dry_run_counts_what_a_run_would_do_and_writes_nothing(tiny_source: TinySource, tmp_path: Path) -> None:
    facts = plan_only(str(tiny_source.official), str(tmp_path / "new"), IngestSettings(samples_per_shard=16))
    assert facts["splits"] == {
        "train": {"num_entries": 60, "num_shards": 4}, "val": {"num_entries": 30, "num_shards": 2}
    }  # fmt: skip
    assert (facts["num_classes"], facts["bad_among_timed"]) == (10, 0)
    assert not (tmp_path / "new").exists()
