"""The figures of a run for TensorBoard: RUN/tensorboard/events.out.tfevents.*, one file for each start of the training.

A metric is the tag `training/<name>` over the step, a layer's is `<name>/<layer>`, an error of an evaluation
`validation/<name>`. A training that starts again, in a later attempt or because Ray replaced its workers within one, says
from which step on the figures of earlier files are void, so TensorBoard shows no step twice. Event files grow by
appending, which object stores cannot: there the file is kept in a temporary folder and put into the run folder whole with
every checkpoint and at the end.
"""

import re
import shutil
import socket
import tempfile
import time
from pathlib import Path
from typing import Any

from ingest.storage import Place

FOLDER = "tensorboard"
NAME = re.compile(r"events\.out\.tfevents\.(\d+)\.")
"""The number is the Unix time of the start in seconds."""
FLUSH_EVERY_S = 5.0
NOT_DRAWN = ("step", "epoch", "samples")


class Board:
    """The event file of one start; opened by the first figures, so that a run without any leaves none."""

    def __init__(self, place: Place, attempt: int) -> None:
        self._place, self._attempt = place, attempt
        self._step = 0
        self._file: Any = None
        self._path: Path | None = None
        self._flushed_at = 0.0

    def begin(self, step: int) -> None:
        """The training goes on after this step: what earlier starts wrote of later steps is void."""
        self._step = step

    def metrics(self, figures: dict[str, Any]) -> None:
        """The figures of a "metrics" event."""
        scalars = {f"training/{name}": value for name, value in figures.items() if _is_drawn(name, value)}
        for layer, norms in figures.get("layers", {}).items():
            scalars |= {f"{name}/{layer}": value for name, value in norms.items() if value is not None}
        self._write(figures["step"], scalars)

    def evaluated(self, step: int, errors: dict[str, float]) -> None:
        """The errors of an evaluation after a step."""
        self._write(step, {f"validation/{name}": errors[name] for name in ("top1_error", "top5_error", "loss")})

    def publish(self) -> None:
        """Let everything so far be seen in the run folder."""
        if self._file is None or self._path is None:
            return
        self._file.flush()
        if not self._place.is_local:
            self._place.replace(f"{FOLDER}/{self._path.name}", self._path.read_bytes())

    def close(self) -> None:
        """Publish, and let go of the file."""
        if self._file is None or self._path is None:
            return
        self.publish()
        self._file.close()
        self._file = None
        if not self._place.is_local:
            shutil.rmtree(self._path.parent)

    def _write(self, step: int, scalars: dict[str, float]) -> None:
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        if self._file is None:
            self._open()
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()]
        self._append(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))
        if time.monotonic() - self._flushed_at >= FLUSH_EVERY_S:
            self._file.flush()
            self._flushed_at = time.monotonic()

    def _open(self) -> None:
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.record_writer import RecordWriter

        earlier = self._earlier_starts()
        local = self._place.local_path(FOLDER) if self._place.is_local else Path(tempfile.mkdtemp(prefix="tench-"))
        local.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads the files of a folder in the order of their names: this one is the last, also when it follows
        # within a second, or on a machine whose clock is behind.
        started = max([int(time.time()), *(second + 1 for second in earlier)])
        name = f"events.out.tfevents.{started:010d}.{self._attempt:04d}.{socket.gethostname()}"
        self._path = local / name
        self._file = RecordWriter(str(self._path))
        first = self._step + 1
        self._append(Event(wall_time=time.time(), step=first, file_version="brain.Event:2"))
        if earlier:
            start = SessionLog(status=SessionLog.START)
            self._append(Event(wall_time=time.time(), step=first, session_log=start))

    def _earlier_starts(self) -> list[int]:
        """When those event files of the run began that are there already."""
        names = [file.path.rsplit("/", 1)[-1] for file in self._place.files(FOLDER)]
        return [int(match[1]) for name in names if (match := NAME.match(name))]

    def _append(self, event: Any) -> None:
        self._file.write(event.SerializeToString())


def _is_drawn(name: str, value: Any) -> bool:
    return name not in NOT_DRAWN and isinstance(value, (int, float))
