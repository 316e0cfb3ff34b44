"""Files as they lie in a dataset now: each read once, compared with its recorded hash, and kept for closer looks.

A crew of threads does that for many: hashing and reading leave the interpreter to the others.
"""

import hashlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import numpy as np

from ingest.errors import Interrupted
from ingest.formats.record import Bytes
from ingest.manifest import StoredHash
from ingest.progress import RunWriter
from ingest.storage import Place

BLOCK = 2**23
LOOK_EVERY_S = 0.2
MOST_THREADS = 8
MEMORY_BYTES = 2**31
"""What the files that are in memory at one time may have together, unless a single one has more."""

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class ReadBack:
    """A file as it was found. `data` is None if it could not be read; `problem` is None if it is as recorded."""

    path: str
    data: Bytes | None
    problem: str | None

    @property
    def whole(self) -> Bytes | None:
        """Its bytes, if they are those that were recorded."""
        return None if self.problem else self.data


def read_back(place: Place, path: str, wanted: StoredHash, go_on: Callable[[], None]) -> ReadBack:
    """Read a file and compare it with its recorded hash; `go_on` is called now and then and may raise."""
    try:
        size = place.size(path)
        if size is None:
            return ReadBack(path, None, "is gone")
        data, digest, at = np.empty(size, np.uint8), hashlib.sha256(), 0
        while at < size and (block := place.get_range(path, at, min(BLOCK, size - at))):
            go_on()
            digest.update(block)
            data[at : at + len(block)] = np.frombuffer(block, np.uint8)
            at += len(block)
    except FileNotFoundError:
        return ReadBack(path, None, "is gone")
    except OSError as error:
        return ReadBack(path, None, f"cannot be read: {error.strerror or error}")
    data.flags.writeable = False
    return ReadBack(path, data[:at], _problem(StoredHash(sha256=digest.hexdigest(), size=at), wanted))


class Crew:
    """Threads that look at the files of a dataset while this thread counts them and heeds stop requests.

    `num_files` are all that are told of; `num_done` of them were looked at before.
    """

    def __init__(self, run: RunWriter | None, phase: str, num_files: int, largest: int, num_done: int = 0) -> None:
        self.num_files = num_files
        self._run, self._phase, self._num_done = run, phase, num_done
        self._stopped = threading.Event()
        cpus = int(os.environ.get("TENCH_CPUS", 0)) or os.cpu_count() or 1
        # Two at least: one reads while the other one hashes.
        self._num_threads = max(1, min(max(cpus, 2), MOST_THREADS, MEMORY_BYTES // max(largest, 1)))

    def each(self, work: Callable[[T], R], things: Iterable[T], size: Callable[[T], int]) -> Iterator[R]:
        """The result for each thing, in the order in which they end; `size` is how many files a thing is.

        Raises Interrupted within a second of a stop request, and what `work` raises.
        """
        waiting = iter(things)
        with ThreadPoolExecutor(self._num_threads) as threads:
            running = {threads.submit(work, t): size(t) for t in islice(waiting, 2 * self._num_threads)}
            try:
                while running:
                    self._look()
                    done, _ = wait(running, LOOK_EVERY_S, FIRST_COMPLETED)
                    for future in done:
                        self._num_done += running.pop(future)
                        yield future.result()
                    running |= {threads.submit(work, t): size(t) for t in islice(waiting, len(done))}
            finally:
                self._stopped.set()
                threads.shutdown(cancel_futures=True)
                self._stopped.clear()
        self._look()

    def go_on(self) -> None:
        """Called by the threads between two pieces of work. Raises Interrupted once they are to end."""
        if self._stopped.is_set():
            raise Interrupted("Stopped before all files were looked at.")

    def _look(self) -> None:
        if self._run is None:
            return
        self._run.progress(self._phase, self._num_done, self.num_files, "files", force=self._is_done)
        if self._run.stop_requested():
            raise Interrupted("Stopped before all files were looked at.")

    @property
    def _is_done(self) -> bool:
        return self._num_done == self.num_files


def _problem(found: StoredHash, wanted: StoredHash) -> str | None:
    if found.size != wanted.size:
        return f"has {found.size} bytes; {wanted.size} were sealed"
    if found.sha256 != wanted.sha256:
        return f"same size, other bytes (SHA-256 {found.sha256[:16]}...)"
    return None
