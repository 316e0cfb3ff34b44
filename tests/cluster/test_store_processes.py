"""The store between processes: a writer that is killed at any moment, watchers that take turns."""

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cluster.store import Key, Store
from tests.cluster.postgres import StorePlace
from tests.cluster.rows import new_job

WRITER = """
import sys
from cluster.jobs import Move
from cluster.store import Key, Store
from tests.cluster.postgres import StorePlace
from tests.cluster.rows import new_job
store, name = Store.open(sys.argv[1]), sys.argv[2]
print("open", flush=True)
for number in range(100_000):
    job, _ = store.add(new_job(f"{name}-{number}"), Key("writer", f"{name}-{number}", "body"))
    print("added", job.id, flush=True)
    store.move(job, Move("starting", "It starts."), "writer")
    print("moved", job.id, flush=True)
"""
WATCHER = """
import sys, time
from cluster.store import Store
with Store.open(sys.argv[1]).watching() as is_mine:
    print(is_mine(), flush=True)
    sys.stdin.read()
"""


@contextmanager
def child(script: str, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """A Python process; killed at the end."""
    process = subprocess.Popen(
        [sys.executable, "-c", script, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()


def killed_writer(place: str, name: str, rng: random.Random) -> list[list[str]]:
    """The lines that a writer got out before it was killed, at a random moment."""
    with child(WRITER, place, name) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(rng.randrange(1, 40))]
        time.sleep(rng.random() * 0.01)
        process.send_signal(signal.SIGKILL)
        lines += process.stdout.readlines()
    return [line.split() for line in lines if line.endswith("\n")]


@contextmanager
def became_watcher(store: Store) -> Iterator[Callable[[], bool]]:
    """The turn of a watcher as soon as it is free: a server notices the death of a client a moment later."""
    deadline = time.monotonic() + 10
    while True:
        with store.watching() as is_mine:
            if is_mine() or time.monotonic() > deadline:
                yield is_mine
                return
        time.sleep(0.01)


def test_every_acknowledged_job_survives_a_kill_at_any_moment(store_place: StorePlace) -> None:
    rng = random.Random(7)
    told: list[list[str]] = []
    for number in range(6):
        told += killed_writer(store_place.place, f"writer-{number}", rng)
    store = Store.open(store_place.place)
    jobs = {job.id: job for job in store.jobs(100_000)}
    assert {words[1] for words in told if words[0] == "added"} <= set(jobs)
    assert all(jobs[words[1]].state == "starting" for words in told if words[0] == "moved")
    assert len(jobs) <= sum(words[0] == "added" for words in told) + 6
    for job_id in jobs:
        assert store.add(new_job(), Key("writer", job_id, "body")) == (jobs[job_id], False)
        assert [m["number"] for m in store.moves(job_id)] == list(range(jobs[job_id].move + 1))
    store.close()
    if "://" not in store_place.place:
        assert store_place.rows("PRAGMA integrity_check") == [("ok",)]


def test_one_watcher_at_a_time_over_processes_and_the_next_when_it_dies(store_place: StorePlace) -> None:
    path = store_place.place
    store = Store.open(path)
    with child(WATCHER, path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        with store.watching() as is_mine:
            assert not is_mine()
        process.send_signal(signal.SIGKILL)
        process.wait()
        with became_watcher(store) as is_mine, child(WATCHER, path) as other:
            assert is_mine()
            assert other.stdout is not None
            assert other.stdout.readline() == "False\n"
    store.close()


def test_a_process_that_reads_while_another_writes_sees_whole_transactions(store_place: StorePlace) -> None:
    path = store_place.place
    reader = Store.open(path)
    with child(WRITER, path, "busy") as process:
        assert process.stdout is not None
        assert [process.stdout.readline().split()[0] for _ in range(2)] == ["open", "added"]
        for _ in range(30):
            newest = reader.jobs(3)
            assert newest
            for job in newest:
                assert len(reader.moves(job.id)) in (job.move + 1, job.move + 2)
    reader.close()
