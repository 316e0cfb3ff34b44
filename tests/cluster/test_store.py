"""The store in either database: nothing is overtaken, nothing doubled, and what was put comes back."""

import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cluster.jobs import IllegalMove, Job, Move, Needs
from cluster.store import Key, KeyTaken, Store, Superseded
from ingest.errors import RefusedError
from tests.cluster.postgres import StorePlace
from tests.cluster.rows import AT, new_job

STARTS = Move("starting", "It starts.", {"attempt": 1, "grant": Needs(4, 1, 7 * 2**30)})


@pytest.fixture
def store(store_place: StorePlace) -> Iterator[Store]:
    opened = Store.open(store_place.place)
    yield opened
    opened.close()


def at_once(works: list[Callable[[], Any]]) -> list[Any]:
    """What each work returned, or the exception that it raised; all start together, in threads."""
    barrier, ended = threading.Barrier(len(works)), [None] * len(works)

    def run(place: int) -> None:
        barrier.wait()
        try:
            ended[place] = works[place]()
        except Exception as error:  # noqa: BLE001 - the exception is what is looked at
            ended[place] = error  # type: ignore[call-overload]

    threads = [threading.Thread(target=run, args=(place,)) for place in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return ended


def test_what_was_put_comes_back(store: Store) -> None:
    put = new_job(
        kind="train", name="größer", after="another", priority=-7, asked_by="ada", error="voll", exit_code=3,
        result={"top1_error": 0.4, "splits": {"val": [1, 2]}}, grant=Needs(4, 1, 7 * 2**40), max_attempts=9,
    )  # fmt: skip
    store.add(put)
    assert store.job(put.id) == put
    assert store.job("no-such-job") is None


def test_of_two_moves_from_one_sight_exactly_one_is_made(store: Store) -> None:
    for _ in range(15):
        job, _ = store.add(new_job())
        ways = [STARTS, Move("stopped", "It stops.")]
        ended = at_once([partial(store.move, job, way, "watcher") for way in ways])
        assert sorted(type(e).__name__ for e in ended) == ["Job", "Superseded"]
        won = next(e for e in ended if isinstance(e, Job))
        assert store.job(job.id) == won
        assert [m["state"] for m in store.moves(job.id)] == ["queued", won.state]


def test_a_move_does_not_overtake_a_wish_unseen(store: Store) -> None:
    seen, _ = store.add(new_job())
    store.wish(seen, by="ada", stop=True)
    with pytest.raises(Superseded):
        store.move(seen, STARTS, "watcher")
    now = store.job(seen.id)
    assert now is not None
    assert (now.state, now.stop_requested) == ("queued", True)
    assert store.move(now, Move("stopped", "It stops."), "watcher").stop_requested


def test_wishes_at_the_same_moment_are_not_lost(store: Store) -> None:
    job, _ = store.add(new_job(state="failed"))
    ended = at_once([partial(store.wish, job, by="ada", stop=True), partial(store.wish, job, by="ada", resume=True)])
    assert sorted(type(e).__name__ for e in ended) == ["Job", "Superseded"]
    first = store.job(job.id)
    assert first is not None
    both = store.wish(first, by="ada", stop=first.resume_requested, resume=first.stop_requested)
    both = store.wish(both, by="ada")
    assert (both.stop_requested, both.resume_requested) == (True, True)
    assert store.job(job.id) == both


def test_each_move_is_noted_with_its_reason_and_who_asked(store: Store) -> None:
    job, _ = store.add(new_job(asked_by="ada"))
    store.move(store.move(job, STARTS, "watcher"), Move("running", "At work."), "watcher")
    told = [(m["number"], m["state_before"], m["state"], m["by"], m["reason"]) for m in store.moves(job.id)]
    assert told == [
        (0, "", "queued", "ada", "Asked for by ada."),
        (1, "queued", "starting", "watcher", "It starts."),
        (2, "starting", "running", "watcher", "At work."),
    ]


def test_an_illegal_move_changes_nothing(store: Store) -> None:
    job, _ = store.add(new_job())
    with pytest.raises(IllegalMove):
        store.move(job, Move("succeeded", "Out of nothing."), "watcher")
    assert store.job(job.id) == job
    assert len(store.moves(job.id)) == 1


def test_a_key_gives_one_job_for_one_body_of_one_caller(store: Store, store_place: StorePlace) -> None:
    first, made = store.add(new_job(), Key("ada", "k", "body"))
    assert made
    assert store.add(new_job(), Key("ada", "k", "body")) == (first, False)
    with pytest.raises(KeyTaken):
        store.add(new_job(), Key("ada", "k", "another body"))
    other, made = store.add(new_job(), Key("bob", "k", "another body"))
    assert made
    store.close()
    again = Store.open(store_place.place)
    assert again.add(new_job(), Key("ada", "k", "body")) == (first, False)
    assert {j.id for j in again.jobs()} == {first.id, other.id}
    again.close()


def test_a_key_gives_the_job_as_it_is_now(store: Store) -> None:
    first, _ = store.add(new_job(), Key("ada", "k", "body"))
    moved = store.move(first, STARTS, "watcher")
    assert store.add(new_job(), Key("ada", "k", "body")) == (moved, False)


def test_requests_with_one_key_at_the_same_moment_make_one_job(store: Store, store_place: StorePlace) -> None:
    for round_number in range(5):
        key = Key("ada", f"key-{round_number}", "body")
        ended = at_once([partial(store.add, new_job(), key) for _ in range(8)])
        assert [made for _, made in ended].count(True) == 1
        assert len({job.id for job, _ in ended}) == 1
    counted = [store_place.rows(f"SELECT count(*) FROM {table}") for table in ("jobs", "moves", "keys")]
    assert counted == [[(5,)]] * 3


def test_pages_hold_every_job_once_newest_first(store: Store) -> None:
    rng = random.Random(1)
    put = [new_job(created_at=AT + rng.randrange(6), kind=rng.choice(["verify", "train"])) for _ in range(37)]
    for job in put:
        store.add(job)
    for kind in (None, "train"):
        seen: list[Job] = []
        while page := store.jobs(5, seen[-1].id if seen else None, kind=kind):
            seen += page
        wanted = sorted((j for j in put if kind in (None, j.kind)), key=lambda j: (j.created_at, j.id), reverse=True)
        assert seen == wanted


def test_a_page_is_not_disturbed_by_jobs_that_come_meanwhile(store: Store) -> None:
    put = [store.add(new_job())[0] for _ in range(6)]
    first = store.jobs(3)
    store.add(new_job())
    assert first + store.jobs(3, first[-1].id) == put[::-1]


def test_open_jobs_are_those_that_need_looking_after_oldest_first(store: Store) -> None:
    states: list[Any] = ["succeeded", "lost", "failed", "queued", "stopped", "stopping", "starting", "running"]
    for state in states:
        store.add(new_job(f"a-{state}-one", state=state))
    failed = store.job("a-failed-one")
    assert failed is not None
    store.wish(failed, by="ada", resume=True)
    found = [j.state for j in store.open_jobs()]
    assert found == ["lost", "failed", "queued", "stopping", "starting", "running"]
    assert store.counts() == dict.fromkeys(states, 1)
    assert [j.state for j in store.jobs(state="lost")] == ["lost"]


def test_a_note_is_replaced_whole(store: Store) -> None:
    assert store.read_note("ray") is None
    store.write_note("ray", {"reachable": True, "nodes": [1]})
    store.write_note("ray", {"reachable": False})
    note = store.read_note("ray")
    assert note is not None
    assert note[0] == {"reachable": False}


def test_a_store_elsewhere_than_in_sqlite_or_postgresql_is_refused() -> None:
    with pytest.raises(RefusedError, match=r"mysql://: .*SQLite .*postgresql://"):
        Store.open("mysql://host/tench")


def test_a_file_that_is_no_store_or_cannot_be_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not a database\n" * 100)
    (tmp_path / "folder").mkdir()
    for name, words in [
        ("text", "file is not a database"), ("folder", "unable to open database file"), ("text/x", "Not a directory|File exists"),
    ]:  # fmt: skip
        with pytest.raises(RefusedError, match=f"{tmp_path}/{name}.*({words})"):
            Store.open(str(tmp_path / name))
    assert (tmp_path / "text").read_text() == "not a database\n" * 100


def test_a_store_keeps_jobs_on_disk_before_it_answers(store: Store, store_place: StorePlace) -> None:
    job, _ = store.add(new_job())
    if "://" not in store_place.place:
        assert store_place.rows("PRAGMA journal_mode") == [("wal",)]
    assert store_place.rows("SELECT id, state, version FROM jobs") == [(job.id, "queued", 0)]
    store.move(job, replace(STARTS, changes={}), "watcher")
    assert store_place.rows("SELECT id, state, version FROM jobs") == [(job.id, "starting", 1)]


def test_last_words_of_any_bytes_can_be_kept(store: Store) -> None:
    job, _ = store.add(new_job())
    said = "killed\x00 by \ud800"
    store.move(job, Move("failed", said, {"error": said}), "watcher")
    kept = store.job(job.id)
    assert kept is not None
    assert (kept.state, kept.error) == ("failed", "killed\N{REPLACEMENT CHARACTER} by ?")
    assert store.moves(job.id)[1]["reason"] == kept.error
