"""Datasets in object stores. A store that is slow or does not answer keeps nobody waiting for long: a thread of its own
looks through each root, and meanwhile what was found before is told.
"""

import threading
import time
from collections.abc import Sequence

from obstore.exceptions import BaseError

from ingest.errors import TenchError
from ingest.manifest import MANIFEST, Manifest, read_manifest
from ingest.storage import Place

MAX_DEPTH, MAX_FOLDERS = 4, 1000
"""Of a root: each folder costs two requests, and a source may lie there as well, whose classes are folders."""
EVERY_S, AGAIN_S = 20.0, 2.0
"""Age of what is told of a store: usually, and if something is asked for that was not found."""
PATIENCE_S = 3.0
"""How long an answer waits for a look that is under way."""

Found = list[tuple[Place, Manifest]]


class Buckets:
    """Looks for sealed datasets under roots in object stores."""

    def __init__(self, roots: Sequence[Place]) -> None:
        self._roots = [_Root(root) for root in roots]

    def datasets(self, age_s: float = EVERY_S) -> Found:
        """What the latest looks have found; they are begun anew if they are older than `age_s`."""
        deadline = time.monotonic() + PATIENCE_S
        for root in self._roots:
            root.look(age_s)
        for root in self._roots:
            root.wait(deadline)
        return [found for root in self._roots for found in root.found]

    def expire(self) -> None:
        """What was found is out of date: the next answer looks again."""
        for root in self._roots:
            root.expire()

    def unfinished(self) -> list[str]:
        """Roots that could not be looked through: they hold too much, do not answer, or not yet."""
        return [root.place.uri for root in self._roots if not root.is_whole]


class _Root:
    """A root, and the thread that looks through it."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.found: Found = []
        self.is_whole = False
        self._lock, self._thread = threading.Lock(), threading.Thread()
        self._began_at = self._ended_at = self._expired_at = float("-inf")

    def look(self, age_s: float) -> None:
        """Begin a look, unless one is under way or the last one is younger."""
        with self._lock:
            now = time.monotonic()
            is_due = now - self._ended_at >= age_s or self._began_at <= self._expired_at
            if is_due and not self._thread.is_alive():
                self._began_at = now
                self._thread = threading.Thread(target=self._walk, name="buckets", daemon=True)
                self._thread.start()

    def expire(self) -> None:
        """What looks find that have begun by now is out of date."""
        self._expired_at = time.monotonic()

    def wait(self, deadline: float) -> None:
        """Until the look is over, or the deadline (monotonic)."""
        if self._thread.is_alive():
            self._thread.join(max(deadline - time.monotonic(), 0))

    def _walk(self) -> None:
        try:
            self.found, self.is_whole = search(self.place)
        except (TenchError, BaseError, OSError):
            self.is_whole = False  # told by `unfinished`; what was found before is the best there is
        self._ended_at = time.monotonic()


def search(root: Place) -> tuple[Found, bool]:
    """The datasets under a root, and whether all of it was looked through. Raises what a store raises that does not
    answer."""
    found: Found = []
    waiting = [""]
    for number, folder in enumerate(waiting):
        if number == MAX_FOLDERS:
            return found, False
        path = f"{folder}/" if folder else ""
        if root.exists(path + MANIFEST):
            place = root.inside(folder) if folder else root
            if manifest := readable(place):
                found.append((place, manifest))
        elif folder.count("/") < MAX_DEPTH - 1:
            waiting += [path + name for name in root.folders(folder)]
    return found, True


def readable(dataset: Place) -> Manifest | None:
    """A manifest; None if it is damaged, or of a newer Tench."""
    try:
        return read_manifest(dataset)
    except TenchError:
        return None
