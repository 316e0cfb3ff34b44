"""What `tench gc` lets go, decided on made-up facts: never what something that is kept has or names."""

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.upkeep.keeping import KeepSettings, Part, Removal, RunFacts, decide

NOW, DAY = 1_800_000_000.0, 86_400.0
IDS = [f"run-{number}" for number in range(8)]


def run(name: str, days: float | None, names: Iterable[str] = (), **facts: Any) -> RunFacts:
    """A run that ended so many days ago (None: it has not), with an older checkpoint, events and a staged file."""
    return RunFacts(
        name, None if days is None else NOW - days * DAY, frozenset(names), 100,
        older=(Part("checkpoints/step-00000001.0001", 40),), record=(Part("events", 20),),
        staged=(Part("result/0001.json#3", 7, NOW - 2 * DAY),), **facts,
    )  # fmt: skip


def gone(*runs: RunFacts, **ages: str) -> dict[str, list[str]]:
    """Paths that go, by run; "" is the whole folder."""
    found: dict[str, list[str]] = {}
    for removal in decide(runs, KeepSettings(**ages), NOW):
        found.setdefault(removal.run, []).append(removal.path)
    return found


@pytest.mark.parametrize(
    ("days", "paths"),
    [
        (None, None),
        (29, ["result/0001.json#3"]),
        (31, ["checkpoints/step-00000001.0001", "result/0001.json#3"]),
        (91, ["checkpoints/step-00000001.0001", "events", "result/0001.json#3"]),
        (181, [""]),
    ],
)
def test_a_run_loses_older_checkpoints_then_its_record_then_all(days: float | None, paths: list[str] | None) -> None:
    assert gone(run("a", days)) == ({} if paths is None else {"a": paths})


def test_an_age_is_a_matter_of_seconds_in_any_unit() -> None:
    for age in ("2d", "48h", "2880m"):
        assert gone(run("a", 2 + 1e-9), runs_after=age) == {"a": [""]}
        assert gone(run("a", 2 - 1e-9), runs_after=age, checkpoints_after=age, leftovers_after="9d") == {}


def test_what_an_open_run_names_keeps_everything_and_so_does_what_that_names() -> None:
    chain = [run("evaluation", None, ["training"]), run("training", 900, ["first"]), run("first", 900)]
    assert gone(*chain) == {}
    assert gone(*chain[1:]) == {"training": [""], "first": [""]}


def test_what_a_young_run_names_keeps_its_folder_and_its_newest_checkpoint() -> None:
    assert gone(run("evaluation", 1, ["training"]), run("training", 900), leftovers_after="9d") == {
        "training": ["checkpoints/step-00000001.0001", "events"]
    }


def test_a_job_without_a_folder_keeps_what_it_names_and_is_not_removed_itself() -> None:
    assert gone(run("queued", None, ["parent"], has_folder=False), run("parent", 900)) == {}
    assert gone(run("long-ago", 900, has_folder=False)) == {}


def test_a_run_of_no_job_is_told_apart_but_goes_no_sooner() -> None:
    assert gone(run("orphan", 100, is_orphan=True), checkpoints_after="999d", events_after="999d") == {
        "orphan": ["result/0001.json#3"]
    }
    (removal,) = decide([run("orphan", 181, is_orphan=True)], KeepSettings(), NOW)
    assert removal == Removal("orphan", "", 100, "run of no job")


def test_a_staged_file_in_what_goes_anyway_is_not_counted_twice() -> None:
    inside = RunFacts(
        "a", NOW - 100 * DAY, record=(Part("events", 20),), staged=(Part("events/0001/1.jsonl#1", 5, 0.0),)
    )
    assert gone(inside) == {"a": ["events"]}


facts = st.builds(
    run,
    st.sampled_from(IDS),
    st.none() | st.floats(0, 400),
    st.lists(st.sampled_from([*IDS, "nowhere"]), max_size=3),
    has_folder=st.booleans(),
    is_orphan=st.booleans(),
)
ages = st.integers(0, 400).map(lambda days: f"{days}d")
settings_of = st.builds(
    KeepSettings, checkpoints_after=ages, events_after=ages, runs_after=ages, leftovers_after=ages
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(facts, max_size=8, unique_by=lambda one: one.id), settings_of)
def test_nothing_that_something_kept_names_is_removed(runs: list[RunFacts], chosen: KeepSettings) -> None:
    removals = decide(runs, chosen, NOW)
    whole = {removal.run for removal in removals if not removal.path}
    touched = {removal.run for removal in removals}
    kept = [one for one in runs if one.id not in whole and (one.has_folder or one.ended_at is None)]
    for one in kept:
        assert not one.names & whole, f"{one.id} is kept and names {one.names & whole}"
    open_ones = [one for one in runs if one.ended_at is None]
    for one in open_ones:
        assert one.id not in touched
        assert not one.names & touched, f"{one.id} is not over and names {one.names & touched}"


@settings(max_examples=100, deadline=None)
@given(st.lists(facts, max_size=8, unique_by=lambda one: one.id), settings_of)
def test_a_removal_names_what_is_there_once_and_for_its_own_reason(
    runs: list[RunFacts], chosen: KeepSettings
) -> None:  # fmt: skip
    by_id = {one.id: one for one in runs}
    removals = decide(runs, chosen, NOW)
    assert len({(removal.run, removal.path) for removal in removals}) == len(removals)
    for removal in removals:
        one = by_id[removal.run]
        parts = {"older checkpoint": one.older, "old record": one.record, "staged file": one.staged}
        if removal.path:
            assert (removal.path, removal.bytes) in [(p.path, p.bytes) for p in parts[removal.reason]]
        else:
            assert (removal.bytes, removal.reason == "run of no job") == (one.bytes, one.is_orphan)
