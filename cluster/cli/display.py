"""What a run looks like in a terminal: a bar on standard error, drawn from the run folder alone.

The run may be written by this process, by a worker of Ray or by a job far away: the folder is the same. Without a
terminal, a line every ten seconds.
"""

import math
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from ingest.progress import Event, RunReader
from ingest.progress import Progress as RunProgress
from ingest.storage import Place
from ingest.words import counted

LOOK_EVERY_S, LINE_EVERY_S = 0.3, 10.0
TOLD = (
    "planned", "warning", "quarantined", "actor lost", "straggler", "written twice", "repaired", "evaluated", "resumed",
    "sealed", "phase",
)  # fmt: skip
MAX_QUARANTINE_LINES = 20


@contextmanager
def shown(place: Place) -> Iterator[None]:
    """Show the run of a folder while the body works."""
    stop = threading.Event()
    thread = threading.Thread(target=_follow, args=(RunReader(place), stop), name="display", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


class Display:
    """The bar, and the events that are worth a line of their own."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._quarantined = 0
        self._line_at = 0.0
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(None), TextColumn("{task.fields[words]}"),
            console=self._console, disable=not self._console.is_terminal, transient=True,
        )  # fmt: skip
        self._task: TaskID | None = None

    def __enter__(self) -> "Display":
        self._bar.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._bar.stop()

    def say(self, words: str) -> None:
        """A line above the bar."""
        self._console.print(words, markup=False, soft_wrap=True)

    def tell(self, event: Event) -> None:
        """An event, if it is worth a line."""
        if event.kind not in TOLD:
            return
        if event.kind == "quarantined":
            self._quarantined += 1
            if self._quarantined == MAX_QUARANTINE_LINES + 1:
                self.say("! more: tench quarantine list DATASET")
            if self._quarantined > MAX_QUARANTINE_LINES:
                return
        mark = "! " if event.kind in ("warning", "quarantined", "actor lost") else "  "
        self.say(f"{mark}{event.text}")

    def draw(self, progress: RunProgress) -> None:
        """The bar as it is now; without a terminal a line now and then."""
        words = progress_words(progress)
        if not self._console.is_terminal:
            if time.monotonic() - self._line_at >= LINE_EVERY_S:
                self._line_at = time.monotonic()
                self.say(f"  {progress.phase}: {words}")
            return
        if self._task is None:
            self._task = self._bar.add_task(progress.phase, words=words, total=progress.total)
        self._bar.update(
            self._task, description=progress.phase, completed=progress.done, total=progress.total, words=words
        )


def progress_words(progress: RunProgress) -> str:
    """`1,024 / 50,000 samples  211/s  3 min left  loss 1.234`."""
    total = f" / {progress.total:,}" if progress.total is not None else ""
    only_one = (progress.done if progress.total is None else progress.total) == 1
    parts = [f"{progress.done:,}{total} {progress.unit.removesuffix('s') if only_one else progress.unit}"]
    if progress.rate:
        parts.append(f"{progress.rate:,.0f}/s" if progress.rate >= 10 else f"{progress.rate:.1f}/s")
    if progress.seconds_left is not None and progress.done != progress.total:
        parts.append(f"{duration(progress.seconds_left)} left")
    figures = progress.figures
    if figures.get("loss") is not None:
        parts.append(f"epoch {figures['epoch']}/{figures['epochs']}  loss {figures['loss']:.3f}")
    if figures.get("top1_error") is not None:
        parts.append(f"top-1 error {figures['top1_error']:.1%}")
    if figures.get("bytes"):
        parts.append(f"{figures['bytes'] / 1e6:,.1f} MB")
    if figures.get("quarantined"):
        parts.append(f"{figures['quarantined']:,} bad")
    if rates := [row["samples_per_s"] for row in figures.get("actors", ())]:
        parts.append(f"{counted(figures['num_actors'], 'actor')}, {min(rates):,.0f} to {max(rates):,.0f}/s each")
    return "  ".join(parts)


def duration(seconds: float) -> str:
    """`42 s`, `3 min`, `2 h 05 min`, `4 d 3 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def step_bar(words: str) -> tuple[Callable[[int, int], None], Callable[[], None]]:
    """A bar for work without a run folder: a function to call with (done, total), and one to end with."""
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(None), TextColumn("{task.completed}/{task.total}"),
        console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True,
    )  # fmt: skip
    bar.start()
    task = bar.add_task(words, total=None)

    def on_progress(done: int, total: int) -> None:
        bar.update(task, completed=done, total=total)

    return on_progress, bar.stop


def facts_lines(facts: dict[str, Any]) -> list[str]:
    """Final facts as lines for people; a split has a line of its own."""
    lines = []
    for name, value in _worth_telling(facts):
        if isinstance(value, dict) and all(isinstance(inner, dict) for inner in value.values()):
            for key, inner in value.items():
                told = ", ".join(
                    f"{n.replace('_', ' ').removeprefix('num ')} {_figure(n, v)}" for n, v in inner.items()
                )
                lines.append(f"{key:<19} {told}")
        elif value is not None and not isinstance(value, (dict, list)):
            lines.append(f"{name.replace('_', ' '):<19} {_figure(name, value)}")
    return lines


def _worth_telling(facts: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Facts as people want them: paths by their number, short times in seconds, no rate where nothing was done."""
    for name, value in facts.items():
        if name in ("repaired", "set_aside"):
            yield name, len(value)
        elif name == "estimated_hours" and value < 0.01:
            yield "estimated_seconds", max(1, math.ceil(value * 3600))
        elif facts.get("samples_converted") != 0 or name not in ("samples_converted", "samples_per_s"):
            yield name, value


def _figure(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if name.endswith("_error"):
        return f"{value:.2%}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _follow(reader: RunReader, stop: threading.Event) -> None:
    """Show what is new in a run folder, and once more after its end."""
    seen, has_stopped = (0, 0), False
    with Display() as display:
        while not has_stopped:
            has_stopped = stop.wait(LOOK_EVERY_S)
            seen = look(reader, display, seen)


def look(reader: RunReader, display: Display, seen: tuple[int, int]) -> tuple[int, int]:
    """Show what comes after (attempt, sequence number) of a run; how far it was read."""
    attempt = reader.latest_attempt()
    if not attempt:
        return seen
    seq = seen[1] if attempt == seen[0] else 0
    for event in reader.events(attempt, seq):
        seq = event.seq
        display.tell(event)
    progress = reader.progress(attempt)
    if progress is not None:
        display.draw(progress)
    return attempt, seq
