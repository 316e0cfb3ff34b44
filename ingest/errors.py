"""Errors that a person is meant to read, each with the exit code of its way of failing.

Every message says what was found, what was expected and what to do, and names the file, key or field. The
command line prints the message and leaves with `exit_code`; the service writes both into the run's result.
"""

import sys


class TenchError(Exception):
    """A failure while running (exit code 1)."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def __reduce__(self) -> tuple[type["TenchError"], tuple[str]]:
        # Errors cross from Ray's actors to the driver: they must come back as what they were.
        return type(self), (self.message,)


class LostError(TenchError):
    """What a run works with went away: Ray, a node, workers (exit code 1). Nothing is wrong with what was asked for:
    another attempt goes on from what is finished."""


class UsageError(TenchError):
    """A value that no run could use: a flag out of bounds, an unknown setting (exit code 2)."""

    exit_code = 2


class RefusedError(TenchError):
    """Source, target or plan do not fit, so nothing was started (exit code 3)."""

    exit_code = 3


class DamageError(TenchError):
    """Stored bytes are not the bytes that were recorded (exit code 4)."""

    exit_code = 4


class BudgetError(TenchError):
    """More bad pictures than the run was allowed (exit code 5)."""

    exit_code = 5


class Interrupted(TenchError):
    """Stopped on request, with everything finished so far kept (exit code 130)."""

    exit_code = 130


def is_loss(error: BaseException) -> bool:
    """Whether Ray lost what a run works with, and not a task of ours failed. Without Ray nothing is lost."""
    ray = sys.modules.get("ray.exceptions")
    return ray is not None and isinstance(error, ray.RayError) and not isinstance(error, ray.RayTaskError)
