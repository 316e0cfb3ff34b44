"""One trace of a few steps (`--profile`): RUN/profile/trace.json.gz, for chrome://tracing or ui.perfetto.dev.

Every operation of rank 0 on CPU and GPU from the middle of training, with its shapes: five steps after five steps of
warm-up, or fewer if the attempt has fewer left. The traced steps are slower than others.
"""

import tempfile
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from ingest.progress import RunWriter

WARM_UP_STEPS, TRACED_STEPS = 5, 5
PATH = "profile/trace.json.gz"


class Trace:
    """Watches the steps of an attempt that has `steps_left` steps to go, and writes the trace once it is whole."""

    def __init__(self, run: RunWriter, steps_left: int) -> None:
        self._run = run
        warm_up = max(min(WARM_UP_STEPS, steps_left - 1), 0)
        self._first, self._steps, self._num_traced = warm_up + 1, 0, min(TRACED_STEPS, max(steps_left - warm_up, 1))
        self._profile = profile(
            activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])],
            schedule=schedule(wait=max(warm_up - 1, 0), warmup=min(warm_up, 1), active=self._num_traced, repeat=1),
            on_trace_ready=self._write,
            record_shapes=True,
        )
        self._profile.start()

    def after_step(self) -> None:
        """Count a step."""
        self._steps += 1
        self._profile.step()

    def close(self) -> None:
        """End; what was traced of an attempt that ended early is written."""
        self._profile.stop()

    def _write(self, found: "profile") -> None:
        with tempfile.TemporaryDirectory(prefix="tench-") as folder:
            file = Path(folder, Path(PATH).name)
            found.export_chrome_trace(str(file))
            self._run.place.replace(PATH, file.read_bytes())
        first, last = self._first, min(self._steps, self._first + self._num_traced - 1)
        self._run.event(
            "profile", f"Trace of the attempt's steps {first} to {last}: {self._run.place.name(PATH)}.",
            path=PATH, first_step=first, last_step=last,
        )  # fmt: skip
