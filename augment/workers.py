"""Threads for many small torch operations, one sample at a time.

Inside these threads torch itself runs on one thread. Otherwise every operation on a crop would start a team of
OpenMP threads, once a worker: four to five times the time on two cores, and worse on more.
"""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait

import torch


class Workers:
    """`count` threads that share loops. Build and use it in a thread that called `run_alone`."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._pool: ThreadPoolExecutor | None = None
        if count > 1:
            together = threading.Barrier(count)
            self._pool = ThreadPoolExecutor(count, "tench-finish", _begin, (together,))
            try:
                wait([self._pool.submit(int) for _ in range(count)])
            except RuntimeError:
                together.abort()  # No more threads to be had: those that wait for the missing ones go home.
                raise

    def each(self, work: Callable[[int, int], None], size: int) -> None:
        """Call `work(start, stop)` for consecutive parts of 0..size; raises what a part raised."""
        if self._pool is None or size < 2:
            work(0, size)
            return
        bounds = [size * k // self.count for k in range(self.count + 1)]
        for _ in self._pool.map(work, bounds[:-1], bounds[1:]):
            pass

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown()


def run_alone() -> None:
    """Let torch use one thread in the calling thread.

    The call also changes what threads that meet torch later begin with: whoever starts such threads calls
    `torch.set_num_threads` with the old number, in a thread of its own, once they run.
    """
    torch.get_num_threads()  # The first call in a thread takes over the common number: not after the next line.
    torch.set_num_threads(1)


def _begin(together: threading.Barrier) -> None:
    run_alone()
    together.wait()
