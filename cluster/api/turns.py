"""Work that takes long, done by few at a time, so that the threads that answer requests are never all held by it."""

import threading

from cluster.api.problems import Problem


class Turns:
    """So many do a kind of work `at_once`, so many wait. Raises Problem 503 for one more; `words` say what is meant."""

    def __init__(self, words: str, at_once: int = 1, waiting: int = 7) -> None:
        self._words = words
        self._turns = threading.BoundedSemaphore(at_once)
        self._places = threading.BoundedSemaphore(at_once + waiting)

    def __enter__(self) -> None:
        if not self._places.acquire(blocking=False):
            raise Problem(503, f"Too many {self._words}; ask again.", headers={"Retry-After": "2"})
        self._turns.acquire()

    def __exit__(self, *error: object) -> None:
        self._turns.release()
        self._places.release()
