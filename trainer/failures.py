"""Exceptions that no code of ours foresaw, in workers: told before Ray Train starts anew, and not tried a third time.

    RUN/failures/0001/<nanoseconds>-<rank>.json   what a rank met, put before Ray hears of it

The record has one writer, rank 0, while workers are at work. It notes the failures of all ranks as warnings: when it
fails itself, else when it is started anew; those that are left then, the driver notes at the end.
"""

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch.distributed as dist

from ingest.errors import TenchError, is_loss
from ingest.progress import RunReader, RunWriter, to_json
from ingest.storage import Place
from trainer.outcomes import error_stands
from trainer.training import Training

NUMBERS = re.compile(r"0x[0-9a-f]+|\d+")
LONGEST = 300
"""Letters of an exception's line that are kept."""


@dataclass(frozen=True)
class Failure:
    """An exception of a rank. `group`: names the workers that were started together; `step`: steps that were done, None
    before training; `is_echo`: it follows from the end of another worker, and says nothing of its own."""

    exception: str
    line: str
    rank: int
    group: str
    step: int | None
    is_echo: bool

    @property
    def words(self) -> str:
        when = f"after step {self.step:,}" if self.step else "before its first step"
        return f"Rank {self.rank} failed {when} with {self.exception}: {self.line}"

    def is_again(self, earlier: "Failure") -> bool:
        """Whether workers before these met the same at the same step, on whatever rank; numbers (addresses, bytes) may
        differ. Two ranks that fail alike in one step have failed once."""
        return self.group != earlier.group and self._mark == earlier._mark and not self.is_echo

    @property
    def _mark(self) -> tuple[str, str, int | None]:
        return self.exception, NUMBERS.sub("#", self.line), self.step


class Failures:
    """Where one worker tells of its failures; `run` is the record's writer, on rank 0."""

    def __init__(self, place: Place, attempt: int, group: str, rank: int, run: RunWriter | None) -> None:
        self._place, self._attempt, self._group, self._rank, self._run = place, attempt, group, rank, run
        if run is not None:
            note(run)

    @contextmanager
    def told(self, training: Training | None = None) -> Iterator[None]:
        """Tell of an exception that is raised within, and let it go on to Ray, which starts the workers anew.

        Raises TenchError instead, which ends the run, if workers before these met the same at the same step: what does
        not depend on luck comes back, after minutes of work each time.
        """
        try:
            yield
        except TenchError:
            raise
        except Exception as error:
            if error_stands(self._place, self._attempt):
                raise  # it follows from that one, and nothing is started anew
            failure = self._failure(error, training.step if training else None)
            _tell(self._place, self._attempt, failure)
            if self._run is not None:
                note(self._run)
            if any(failure.is_again(other) for _, other in _told(self._place, self._attempt)):
                raise TenchError(
                    f"{failure.words}. The workers had been started anew after the same failure at the same step, so it "
                    "is not tried again; mend the cause, then resume"
                ) from error
            raise

    def _failure(self, error: Exception, step: int | None) -> Failure:
        kind = type(error)
        name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
        line = lines(error)[0].rstrip(".")[:LONGEST]
        return Failure(name, line, self._rank, self._group, step, _is_echo(error))


def note(run: RunWriter) -> None:
    """Note each failure of the attempt that its record does not speak of yet. By the record's writer alone."""
    told = _told(run.place, run.attempt)
    if not told:
        return
    run.flush()
    noted = {event.data.get("failure") for event in RunReader(run.place).events(run.attempt)}
    for path, failure in told:
        if path not in noted:
            run.event("warning", f"{failure.words}.", failure=path, **asdict(failure))
    run.flush()


def lines(error: BaseException) -> list[str]:
    """What an error says, line by line; its type if it says nothing."""
    return [line for line in str(error).strip().splitlines() if line.strip()] or [type(error).__name__]


def _is_echo(error: Exception) -> bool:
    """Whether a collective broke because another worker went away. Gloo has no type of its own for that: its errors are
    RuntimeErrors that begin with the path of one of its sources, as in [.../third_party/gloo/gloo/transport/tcp/..."""
    from_gloo = isinstance(error, RuntimeError) and "/gloo/" in str(error)
    return from_gloo or isinstance(error, dist.DistError) or is_loss(error)


def _tell(place: Place, attempt: int, failure: Failure) -> None:
    place.put_new(f"{_folder(attempt)}/{time.time_ns():020d}-{failure.rank:05d}.json", to_json(asdict(failure)))


def _told(place: Place, attempt: int) -> list[tuple[str, Failure]]:
    """What was told so far, with its path, in the order of time."""
    data: list[tuple[str, dict[str, Any]]] = [
        (file.path, json.loads(place.get(file.path))) for file in place.files(_folder(attempt))
    ]
    return [(path, Failure(**fields)) for path, fields in data]


def _folder(attempt: int) -> str:
    return f"failures/{attempt:04d}"
