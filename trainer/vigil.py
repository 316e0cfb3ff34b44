"""Hears a stop, and a later attempt, while no worker is at work: rank 0, which looks for both, is not there then.

It lives in the process of Ray Train's controller, which alone knows in which state the run is: workers that start up, or
between two starts, or fewer nodes than an elastic run can begin with. As long as workers run, it does nothing: a step
may take minutes, and they end by themselves at their next safe point.
"""

import sys
import threading
import time
import traceback
from typing import Any

from ray.train.v2._internal.execution.callback import ControllerCallback
from ray.train.v2._internal.execution.controller.state import (
    InitializingState,
    ReschedulingState,
    ResizingState,
    RestartingState,
    SchedulingState,
)

from ingest.errors import Interrupted
from ingest.progress import RunWriter
from ingest.storage import Place
from trainer import checkpoint, outcomes

LOOK_EVERY_S = 2.0
WITHOUT_WORKERS = (InitializingState, SchedulingState, ReschedulingState, RestartingState, ResizingState)
"""Not the states in which the run ends: there Ray Train does what remains within seconds."""


class Vigil(ControllerCallback):  # type: ignore[misc]
    """A part of Ray Train's controller that ends it. What it holds can be pickled: Ray sends it to the workers too."""

    def __init__(self, place: Place, attempt: int) -> None:
        self.place, self.attempt = place, attempt
        self.is_waiting = True

    def after_controller_start(self, train_run_context: Any) -> None:
        """Called by Ray Train in the controller's process, before it looks for a place for workers."""
        import ray

        controller = ray.get_runtime_context().current_actor
        threading.Thread(target=self._watch, args=(controller,), name="vigil", daemon=True).start()

    def after_controller_state_update(self, previous_state: Any, current_state: Any) -> None:
        """Called by Ray Train at each change of its state."""
        self.is_waiting = isinstance(current_state, WITHOUT_WORKERS)

    def end_if_asked(self) -> bool:
        """Whether the run is to end now, as no worker is at work; the driver is then told why, unless it knows."""
        why = self._why() if self.is_waiting else None
        if why is None or not self.is_waiting:  # workers may have begun while the run folder was read
            return False
        if outcomes.found(self.place, self.attempt) is None:
            outcomes.put_error(self.place, self.attempt, outcomes.CONTROLLER, why)
        return True

    def _watch(self, controller: Any) -> None:
        import ray

        while not self._is_over():
            time.sleep(LOOK_EVERY_S)
        # Not its own `abort`: while it waits for a place for workers it answers nothing, for a minute at a time. The
        # workers that it has started end with it, its claim to a place with the driver's process, which leaves now.
        ray.kill(controller)

    def _is_over(self) -> bool:
        try:
            return self.end_if_asked()
        except Exception:  # noqa: BLE001 - storage that does not answer once must not end the watch: it looks again
            traceback.print_exc(file=sys.stderr)
            return False

    def _why(self) -> Interrupted | None:
        run = RunWriter(self.place, self.attempt)
        try:
            run.flush()  # of nothing: it looks for a later attempt, and says it in the words that rank 0 would use
        except Interrupted as overtaken:
            return overtaken
        if not run.stop_requested():
            return None
        return Interrupted(f"Stopped while no worker was at work; {self._what_stands()}.")

    def _what_stands(self) -> str:
        paths = checkpoint.complete(self.place)
        if not paths:
            return "there is no checkpoint yet, a resume begins with the first step"
        match = checkpoint.NAME.search(paths[-1])
        assert match is not None, paths
        return f"a resume goes on from the checkpoint of step {int(match[1]):,} ({paths[-1]})"
