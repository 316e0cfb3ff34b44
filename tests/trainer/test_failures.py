"""What workers meet that nobody foresaw: it is in the record, and the same at the same step is not tried a third time."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch.distributed as dist

from ingest.errors import DamageError, TenchError
from ingest.progress import RunWriter
from ingest.storage import Place
from tests.trainer.runs import Left
from trainer import outcomes
from trainer.failures import Failures, note

GLOO = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:57747."


@pytest.fixture
def run(folder: Path) -> RunWriter:
    return RunWriter.begin(Place(folder), "train", {})


def fail(run: RunWriter, group: str, error: Exception, step: int | None = 7, rank: int = 1) -> None:
    """A worker of a group raises an error after a step; rank 0 has the record."""
    training: Any = None if step is None else SimpleNamespace(step=step)
    met = Failures(run.place, run.attempt, group, rank, run if rank == 0 else None)
    with met.told(training):
        raise error


def warnings(run: RunWriter) -> list[str]:
    return Left(Path(run.place.uri)).texts("warning")


def test_what_any_rank_meets_is_noted_once_as_a_sentence(run: RunWriter) -> None:
    with pytest.raises(ValueError, match="of another kind"):
        fail(run, "a", ValueError("a picture of another kind.\nand more"), step=12)
    assert warnings(run) == []
    with pytest.raises(RuntimeError):
        fail(run, "a", RuntimeError(GLOO), step=12, rank=0)
    with pytest.raises(KeyError):
        fail(run, "b", KeyError("velocity"), step=None, rank=2)
    note(run)
    note(run)
    assert warnings(run) == [
        "Rank 1 failed after step 12 with ValueError: a picture of another kind.",
        f"Rank 0 failed after step 12 with RuntimeError: {GLOO}",
        "Rank 2 failed before its first step with KeyError: 'velocity'.",
    ]
    assert [event["step"] for event in Left(Path(run.place.uri)).events("warning")] == [12, 12, None]


def test_the_same_at_the_same_step_after_a_restart_ends_the_run_with_that_reason(run: RunWriter) -> None:
    with pytest.raises(RuntimeError, match="Tried to allocate"):
        fail(run, "a", RuntimeError("Tried to allocate 20.00 MiB at 0x7f1c"))
    with pytest.raises(TenchError, match=r"Rank 0 failed after step 7 with RuntimeError: Tried .* not tried again"):
        fail(run, "b", RuntimeError("Tried to allocate 24.00 MiB at 0x7faa"), rank=0)


@pytest.mark.parametrize(
    ("group", "error", "step"),
    [
        ("a", ValueError("one"), 7),  # another rank in the same step: they have failed once
        ("b", ValueError("one"), 8),
        ("b", ValueError("other"), 7),
        ("b", TypeError("one"), 7),
        ("b", ValueError("one"), None),
    ],
)
def test_another_failure_than_the_one_before_is_left_to_ray(
    run: RunWriter, group: str, error: Exception, step: int | None
) -> None:
    with pytest.raises(ValueError, match="one"):
        fail(run, "a", ValueError("one"))
    with pytest.raises(type(error), match=str(error)):
        fail(run, group, error, step, rank=0)


@pytest.mark.parametrize("error", [RuntimeError(GLOO), dist.DistBackendError("NCCL error: remote process exited")])
def test_collectives_that_break_as_another_worker_ends_never_end_the_run(run: RunWriter, error: Exception) -> None:
    for group in ("a", "b", "c"):
        with pytest.raises(type(error)):
            fail(run, group, error)


def test_errors_of_ours_and_what_follows_from_them_are_no_failures(run: RunWriter) -> None:
    with pytest.raises(DamageError):
        fail(run, "a", DamageError("a picture is damaged"))
    outcomes.put_error(run.place, run.attempt, outcomes.rank_name(1), DamageError("a picture is damaged"))
    with pytest.raises(RuntimeError):
        fail(run, "a", RuntimeError(GLOO), rank=0)
    note(run)
    assert warnings(run) == []
