"""The store between processes: a writer that is killed at any moment, watchers that take turns."""

import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.store import Key, Store
from tests.cluster.rows import new_job

WRITER = """
import sys
from cluster.jobs import Move
from cluster.store import Key, Store
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
with Store.open(sys.argv[1]).watching() as mine:
    print(mine, flush=True)
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


def killed_writer(path: Path, name: str, rng: random.Random) -> list[list[str]]:
    """The lines that a writer got out before it was killed, at a random moment."""
    with child(WRITER, str(path), name) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(rng.randrange(1, 40))]
        time.sleep(rng.random() * 0.01)
        process.send_signal(signal.SIGKILL)
        lines += process.stdout.readlines()
    return [line.split() for line in lines if line.endswith("\n")]


def test_every_acknowledged_job_survives_a_kill_at_any_moment(tmp_path: Path) -> None:
    path, rng = tmp_path / "store.sqlite", random.Random(7)
    told: list[list[str]] = []
    for number in range(6):
        told += killed_writer(path, f"writer-{number}", rng)
    store = Store.open(str(path))
    jobs = {job.id: job for job in store.jobs(100_000)}
    assert {words[1] for words in told if words[0] == "added"} <= set(jobs)
    assert all(jobs[words[1]].state == "starting" for words in told if words[0] == "moved")
    assert len(jobs) <= sum(words[0] == "added" for words in told) + 6
    for job_id in jobs:
        assert store.add(new_job(), Key("writer", job_id, "body")) == (jobs[job_id], False)
        assert [m["number"] for m in store.moves(job_id)] == list(range(jobs[job_id].move + 1))
    store.close()
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_one_watcher_at_a_time_over_processes_and_the_next_when_it_dies(tmp_path: Path) -> None:
    path = str(tmp_path / "store.sqlite")
    store = Store.open(path)
    with child(WATCHER, path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        with store.watching() as mine:
            assert mine is False
        process.send_signal(signal.SIGKILL)
        process.wait()
        with store.watching() as mine, child(WATCHER, path) as other:
            assert mine is True
            assert other.stdout is not None
            assert other.stdout.readline() == "False\n"
    store.close()


def test_a_process_that_reads_while_another_writes_sees_whole_transactions(tmp_path: Path) -> None:
    path = str(tmp_path / "store.sqlite")
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
