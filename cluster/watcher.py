"""The one writer of states: looks at store, Ray and run folders, and makes the moves that follow.

It decides nothing itself: `jobs.next_move` and `ledger.admit` do, from what is gathered here. What it does besides is
safe to do twice (put the request, submit by a fixed name, put the stop file), so it may be killed at any moment.
"""

import json
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from cluster.jobs import ADMITTED, ENDED, Job, Move, RayState, Sight, asker, next_move
from cluster.launcher import MEASURED, RayJobs, RayUnreachable
from cluster.ledger import Admission, Capacity, admit, applicant, works_itself
from cluster.store import Store, Superseded
from ingest.confined import ROOTS
from ingest.errors import TenchError
from ingest.progress import RunReader, ask_to_stop, put_allowed, put_request
from ingest.storage import STAY_ON_HOST, Place
from ingest.words import first_line

TICK_S = 0.7
STOP_GRACE_S = 30.0
LAST_WORDS = 600
RAY_NOTE = "ray"
NOTE_EVERY_S = 5.0
"""The note is written so often at least: it tells how busy the nodes are, and that the watcher is at work."""
RAY_STATES: Mapping[str | None, RayState] = {
    None: "absent", "PENDING": "pending", "RUNNING": "running",
    "SUCCEEDED": "ended", "FAILED": "ended", "STOPPED": "ended",
}  # fmt: skip


class Watcher:
    """Watches the jobs of one store. `run` in a thread of its own; of several processes only one is at work."""

    def __init__(
        self, store: Store, ray: RayJobs, runs: Place, roots: list[str], web_hosts: Sequence[str] = ()
    ) -> None:
        self._store, self._ray, self._runs = store, ray, runs
        self._allowed: dict[str, list[str]] = {"roots": roots, "web_hosts": list(web_hosts)}
        self._stopping = threading.Event()
        self._gone_since: dict[str, float] = {}
        self._misfit_since: dict[str, float] = {}
        self._trouble = ""
        self.has_looked = threading.Event()
        """Set once the jobs were looked at, or another watcher was found to do so."""

    def run(self) -> None:
        """Watch until `stop`; wait for the other watcher's end if there is one, and for a store that does not answer."""
        while not self._stopping.is_set():
            try:
                with self._store.watching() as is_mine:
                    while is_mine() and not self._stopping.is_set():
                        self._tick()
                        self._stopping.wait(TICK_S)
                self.has_looked.set()
            except sa.exc.SQLAlchemyError as error:
                self._say_once(f"the store does not answer: {_said(error)}")
            self._stopping.wait(TICK_S)

    def stop(self) -> None:
        """End `run` after the tick under way."""
        self._stopping.set()

    def tick(self) -> None:
        """Look at every open job once, and make the moves that follow."""
        capacity = self._look_at_ray()
        jobs = self._store.open_jobs()
        parents = {job.id: self._parent(job) for job in jobs if job.state == "queued"}
        admission = self._admission(jobs, parents, capacity)
        for job in jobs:
            try:
                self._look_after(job, parents.get(job.id), admission, capacity is not None)
            except sa.exc.OperationalError:
                raise
            except Exception:  # noqa: BLE001 - one bad job must not end the watch over the others; it is logged
                print(f"tench: job {job.id}:", flush=True)
                traceback.print_exc()

    def _look_after(self, job: Job, parent: Any, admission: Admission, reachable: bool) -> None:
        """One job: the move that follows from what is seen, or else what its state asks for."""
        is_waiting = job.state == "queued"
        sight = self._sight_of_waiting(job, parent, admission) if is_waiting else self._sight(job, reachable)
        move = next_move(job, sight, time.time())
        if move is not None:
            self._make(job, move)
        else:
            self._care_for(job, sight)

    def interrupt(self, within_s: float) -> None:
        """Ask every driver at work to stop at its next safe point, and wait for their results: the service is ending,
        and takes its Ray along. Their jobs go on when the next service starts."""
        try:
            at_work = [j for j in self._store.open_jobs() if j.state in ADMITTED]
        except sa.exc.OperationalError as error:
            print(
                f"tench: jobs at work are not asked to stop: the store does not answer: {_said(error)}",
                flush=True,
            )
            return
        for job in at_work:
            ask_to_stop(self.place(job), job.attempt)
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline and any(self._works(job) for job in at_work):
            time.sleep(0.2)

    def place(self, job: Job) -> Place:
        """The job's run folder."""
        return self._runs.inside(job.id)

    def _tick(self) -> None:
        try:
            self.tick()
            self._trouble = ""
            self.has_looked.set()
        except sa.exc.OperationalError as error:
            self._say_once(f"the store does not answer: {_said(error)}")
        except Exception:  # noqa: BLE001 - one bad tick must not end the watch; it is logged
            traceback.print_exc()

    def _say_once(self, words: str) -> None:
        if words != self._trouble:
            print(f"tench: {words}", flush=True)
            self._trouble = words

    def _look_at_ray(self) -> Capacity | None:
        """What Ray has, None if it is out of reach; left as a note for the handlers of requests."""
        before = self._store.read_note(RAY_NOTE)
        note: dict[str, Any]
        try:
            found = self._ray.nodes()
            note, capacity = {"reachable": True, "nodes": list(found.nodes)}, found.capacity
        except RayUnreachable as error:
            last_known = before[0]["nodes"] if before else []
            note, capacity = {"reachable": False, "nodes": last_known, "error": error.message}, None
        if before is None or _lasting(before[0]) != _lasting(note) or time.time() - before[1] >= NOTE_EVERY_S:
            self._store.write_note(RAY_NOTE, note)
        return capacity

    def _admission(self, jobs: list[Job], parents: Mapping[str, Any], capacity: Capacity | None) -> Admission:
        if capacity is None or not capacity.cpus:
            return Admission({}, {})
        waiting = [
            applicant(j)
            for j in jobs
            if j.state == "queued" and not j.stop_requested and parents[j.id] in (None, "succeeded")
        ]
        return admit(waiting, [j.grant for j in jobs if j.state in ADMITTED], capacity)

    def _sight_of_waiting(self, job: Job, parent: Any, admission: Admission) -> Sight:
        now, never = time.monotonic(), admission.never.get(job.id)
        if never is None:
            self._misfit_since.pop(job.id, None)
        since = now if never is None else self._misfit_since.setdefault(job.id, now)
        return Sight(parent=parent, grant=admission.granted.get(job.id), never=never, never_s=now - since)

    def _sight(self, job: Job, reachable: bool) -> Sight:
        """What can be seen of a job that was started."""
        if job.has_ended:
            return Sight()
        reader, now = RunReader(self.place(job)), time.monotonic()
        ray = self._ray_state(job) if reachable else "unreachable"
        gone_s = 0.0
        if ray in ("ended", "absent"):
            gone_s = now - self._gone_since.setdefault(job.submission_id, now)
        else:
            self._gone_since.pop(job.submission_id, None)
        result = reader.result(job.attempt)
        last_words = self._last_words(job) if ray == "ended" and result is None else ""
        # Looked for only where it tells something: of a process that went without a word.
        told_to_stop = ray in ("ended", "absent") and result is None and reader.was_told_to_stop(job.attempt)
        return Sight(
            ray, gone_s, last_words, begun=reader.has_begun(job.attempt), told_to_stop=told_to_stop, result=result
        )

    def _ray_state(self, job: Job) -> RayState:
        try:
            return RAY_STATES[self._ray.state(job.submission_id)]
        except RayUnreachable:
            return "unreachable"

    def _last_words(self, job: Job) -> str:
        try:
            return " ".join(self._ray.logs(job.submission_id)[-LAST_WORDS:].split())
        except RayUnreachable:
            return ""

    def _parent(self, job: Job) -> Any:
        if job.after is None:
            return None
        parent = self._store.job(job.after)
        if parent is None:
            return "missing"
        # One that was asked to go on is as good as queued; it may have been so asked a moment ago.
        return "queued" if parent.state in ("failed", "stopped") and parent.resume_requested else parent.state

    def _make(self, job: Job, move: Move) -> None:
        try:
            after = self._store.move(job, move, asker(job, move))
        except Superseded:
            return  # Somebody wished for something meanwhile: the next tick decides anew.
        if after.state == "starting":
            self._care_for(after, Sight())
        if after.state in ENDED:
            self._gone_since.pop(job.submission_id, None)
            self._misfit_since.pop(job.id, None)

    def _care_for(self, job: Job, sight: Sight) -> None:
        """What a state asks to be done again and again until it is seen to be done."""
        if job.state == "starting" and sight.ray == "absent" and not sight.begun:
            self._submit(job)
        if job.state == "stopping":
            ask_to_stop(self.place(job), job.attempt)
            overdue = not sight.begun or time.time() - job.moved_at > STOP_GRACE_S
            if overdue and sight.ray != "unreachable":
                self._force(job)

    def _submit(self, job: Job) -> None:
        place = self.place(job)
        try:
            asked = {"settings": job.settings, "job": job.id, "pinned": self._pinned(job)}
            put_request(place, job.kind, asked)  # What the first attempt was asked for stays.
            put_allowed(place, job.attempt, self._allowed)
            process = job.grant if works_itself(job.kind, job.settings) else None
            self._ray.submit(job.submission_id, _environment(place, job, self._allowed["roots"]), process)
        except (TenchError, OSError, ValueError) as error:
            print(f"tench: job {job.id} could not be submitted: {error}", flush=True)

    def _pinned(self, job: Job) -> dict[str, str] | None:
        """The dataset that the parent has made, if this job works on it: its attempts must find no other there."""
        parent = None if job.after is None else self._store.job(job.after)
        made = (parent.result if parent is not None else None) or {}
        if "dataset_id" not in made or made.get("dataset") != job.settings.get("dataset"):
            return None
        return {"dataset_id": made["dataset_id"], "by": str(job.after)}

    def _force(self, job: Job) -> None:
        try:
            self._ray.stop(job.submission_id)
        except RayUnreachable as error:
            print(f"tench: job {job.id} could not be stopped: {error}", flush=True)

    def _works(self, job: Job) -> bool:
        reader = RunReader(self.place(job))
        return reader.has_begun(job.attempt) and reader.result(job.attempt) is None


def _lasting(note: Mapping[str, Any]) -> dict[str, Any]:
    """What Ray has, without how busy it is."""
    return {**note, "nodes": [n | dict.fromkeys(MEASURED) for n in note["nodes"]]}


def _said(error: Exception) -> str:
    return first_line(getattr(error, "orig", None) or error)


def _environment(place: Place, job: Job, roots: list[str]) -> dict[str, str]:
    return {
        "TENCH_RUN": place.uri, "TENCH_ATTEMPT": str(job.attempt),
        "TENCH_CPUS": str(job.grant.cpus), "TENCH_GPUS": str(job.grant.gpus),
        STAY_ON_HOST: "1", ROOTS: json.dumps(roots),  # The driver's actors have them, too.
    }  # fmt: skip
