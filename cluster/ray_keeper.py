"""The service's own Ray for as long as the service works: adopted or started, and started anew whenever it dies.

A head that dies takes its drivers and workers along. Their jobs are unknown to the next one, so they count as lost,
and their next attempts go on from what is finished.
"""

import sys
import threading
import time
from pathlib import Path

from cluster import local_ray
from cluster.launcher import RayJobs, RayUnreachable
from ingest.errors import TenchError

LOOK_EVERY_S = 1.0
ASK_AFTER_S, SILENT_FOR_S = 10.0, 60.0
"""A head whose processes live but that has not answered for so long is taken for dead."""
REFUSES_FOR_S = 90.0
"""So is one that answers, but has taken no job for so long and has none at work: its agent hangs."""


class RayKeeper:
    """Keeps a head alive in a thread; `ray` speaks to the one that is there."""

    def __init__(self, home: Path, num_cpus: int | None) -> None:
        self._home, self._num_cpus = home, num_cpus
        self._own = _adopted_or_started(home, num_cpus)
        self.ray = RayJobs(self._own.address, self._own.token)
        self._ending = threading.Event()
        self._answered_at = time.monotonic()
        self._thread = threading.Thread(target=self._keep, name="ray-keeper")
        self._thread.start()

    def end(self) -> None:
        """End the head with everything that runs in it."""
        self._ending.set()
        self._thread.join()
        self.ray.close()
        self._own.end()
        local_ray.forget(self._home)

    def _keep(self) -> None:
        while not self._ending.wait(LOOK_EVERY_S):
            if not self._own.alive() or self._is_silent() or self._takes_no_jobs():
                self._replace()

    def _is_silent(self) -> bool:
        """Whether the head has not answered for a while, though it is there."""
        if time.monotonic() - self._answered_at < ASK_AFTER_S:
            return False
        if self._answers():
            self._answered_at = time.monotonic()
        return time.monotonic() - self._answered_at > SILENT_FOR_S

    def _takes_no_jobs(self) -> bool:
        if self.ray.refused_s() < REFUSES_FOR_S:
            return False
        try:
            return not self.ray.running()
        except RayUnreachable:
            return False  # then it is silent

    def _answers(self) -> bool:
        try:
            self.ray.nodes()
        except RayUnreachable:
            return False
        return True

    def _replace(self) -> None:
        print("Ray has died; starting another one.", file=sys.stderr, flush=True)
        self._own.end()
        try:
            self._own = local_ray.start(self._home, self._num_cpus)
        except (TenchError, OSError) as error:
            print(f"{error}; trying again.", file=sys.stderr, flush=True)
            return
        self.ray.move_to(self._own.address, self._own.token)
        self._answered_at = time.monotonic()


def _adopted_or_started(home: Path, num_cpus: int | None) -> local_ray.LocalRay:
    """The head of a service that was killed, if its jobs still run; otherwise a new one."""
    found = local_ray.find(home)
    if found is not None:
        if _works(found):
            print("Going on with the Ray of the service before this one: its jobs still run.", file=sys.stderr)
            return found
        found.end()
        local_ray.forget(home)
    print("Starting Ray on this machine (10 to 30 s) ...", file=sys.stderr)
    return local_ray.start(home, num_cpus)


def _works(found: local_ray.LocalRay) -> bool:
    ray = RayJobs(found.address, found.token)
    try:
        return bool(ray.running())
    except RayUnreachable as error:
        print(f"The Ray of the service before this one does not answer: {error}", file=sys.stderr)
        return False
    finally:
        ray.close()
