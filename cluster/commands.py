"""One command, run the same way from the command line and from a job: dispatch, record the end, map to exit codes."""

import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, TypeVar

from cluster.settings import (
    EvaluateHereRequest,
    EvaluateRequest,
    IngestRequest,
    RecentreRequest,
    RepairRequest,
    RetryRequest,
    TrainRequest,
    VerifyRequest,
    run_beside,
)
from ingest.errors import Interrupted, LostError, TenchError, is_loss
from ingest.progress import RunWriter, State
from ingest.settings import IngestSettings, RecentreSettings, RepairSettings, Settings, VerifySettings
from ingest.storage import Place
from ingest.words import counted
from trainer.settings import EvaluateSettings, TrainSettings

S = TypeVar("S", bound=Settings)
REMEDY = "`tench repair DATASET --source SOURCE` gives damaged files their recorded bytes again"


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    state: State
    exit_code: int
    error: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    is_loss: bool = False
    """What it worked with went away; another attempt goes on from what is finished."""


def needs_ray(request: Settings) -> bool:
    """Whether a command works through Ray from its start; a repair may, once it has found damaged shards."""
    through_actors = isinstance(request, IngestRequest | RecentreRequest | RetryRequest)
    return through_actors or (isinstance(request, TrainRequest) and request.num_workers > 0)


def execute(request: Settings, run: RunWriter, trained_run: str | None = None, is_job: bool = False) -> Outcome:
    """Run a command to its end and record it in the run folder. Never raises.

    `trained_run` is the run folder whose network an evaluation measures. A loss is no result of a job: its service makes
    another attempt. A first SIGINT or SIGTERM asks for a stop
    at the next safe point; a second SIGINT interrupts at once.
    """
    try:
        with _stop_on_signals(run):
            facts = _dispatch(request, run, trained_run)
        outcome = Outcome("succeeded", 0, None, facts)
        if facts.get("ok") is False:
            outcome = Outcome("failed", 4, _damage_words(request, facts["damages"]), facts)
    except Interrupted as error:
        outcome = Outcome("stopped", 130, error.message)
    except TenchError as error:
        outcome = Outcome("failed", error.exit_code, error.message, is_loss=isinstance(error, LostError))
    except KeyboardInterrupt:
        outcome = Outcome("stopped", 130, "Interrupted.")
    except Exception as error:  # noqa: BLE001 - the record of the run has to say how it ended
        traceback.print_exc(file=sys.stderr)
        outcome = Outcome("failed", 1, f"{type(error).__name__}: {error}", is_loss=is_loss(error))
    return _recorded(run, outcome, has_result=not (is_job and outcome.is_loss))


def _dispatch(request: Settings, run: RunWriter, trained_run: str | None) -> dict[str, Any]:
    if isinstance(request, IngestRequest):
        from ingest.run import ingest

        return ingest(request.source, request.dataset, part_of(request, IngestSettings), run)
    if isinstance(request, VerifyRequest):
        from ingest.verify import verify

        return verify(request.dataset, part_of(request, VerifySettings), run)
    if isinstance(request, RepairRequest):
        return _repair(request, run)
    if isinstance(request, RecentreRequest):
        from ingest.recentre import recentre

        return recentre(request.dataset, request.out, part_of(request, RecentreSettings), run)
    if isinstance(request, RetryRequest):
        from ingest.retry import retry_sealed

        return retry_sealed(request.dataset, request.source, request.out, run)
    if isinstance(request, TrainRequest):
        from trainer.launch import train

        return train(request.dataset, run.place.uri, part_of(with_run_beside(request, run.place), TrainSettings), run)
    if isinstance(request, EvaluateHereRequest):
        from trainer.evaluate import Outputs, evaluate_runs

        outputs = Outputs(request.predictions, request.submission)
        return evaluate_runs(request.dataset, request.runs, part_of(request, EvaluateSettings), run, outputs)
    if isinstance(request, EvaluateRequest):
        from trainer.evaluate import evaluate_run

        return evaluate_run(request.dataset, trained_run or request.run, part_of(request, EvaluateSettings), run)
    raise AssertionError(f"no command for {type(request).__name__}")


def with_run_beside(request: TrainRequest, run: Place) -> TrainRequest:
    """The request with the folder of the run that `initial` names as `run:ID`."""
    beside = run_beside(request)
    if beside is None:
        return request
    return request.model_copy(update={"initial": f"{run.uri.rsplit('/', 1)[0]}/{beside}"})


def _repair(request: RepairRequest, run: RunWriter) -> dict[str, Any]:
    from ingest.repair import repair

    with ExitStack() as stack:

        def connect() -> None:
            stack.enter_context(_ray_of_this_process(request.num_actors, run))

        return repair(request.dataset, request.source, part_of(request, RepairSettings), run, connect)


def _ray_of_this_process(num_actors: int | None, run: RunWriter) -> AbstractContextManager[None]:
    """The Ray that is connected; else the one that started this process as a job, or one of its own."""
    from cluster.ray_session import join_ray, own_ray

    # Ray reads its environment when it is imported: here it may not be, before `own_ray` has set that.
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        return nullcontext()
    if "TENCH_RUN" in os.environ:
        return join_ray()
    run.event("phase", "Starting Ray on this machine (some seconds).")
    return own_ray(num_actors)


def _damage_words(request: Settings, damages: list[dict[str, str]]) -> str:
    """What a verification found, or a repair left: how much, where, and what to do."""
    source = Place(request.source).uri if isinstance(request, VerifyRequest) and request.source else None
    paths = [known["path"] for known in damages if known["path"] != source]
    files = sorted(set(paths))
    where = f" ({'first ' if len(files) > 1 else ''}{files[0]})" if files else ""
    if isinstance(request, RepairRequest):
        return f"{counted(len(files), 'file')} {'is' if len(files) == 1 else 'are'} still damaged{where}"
    said = [f"{counted(len(paths), 'finding')} of damage in {counted(len(files), 'file')}{where}"] if files else []
    if len(paths) < len(damages):
        said.append(f"{counted(len(damages) - len(paths), 'difference')} from {source}")
    return "; ".join([*said, REMEDY if files else "the dataset itself is undamaged; is this its source?"])


def part_of(request: Settings, settings: type[S]) -> S:
    """The settings of a floor that a request carries, without the request's own fields."""
    values = request.model_dump(include=set(settings.model_fields))
    return settings.model_validate(values)


def _recorded(run: RunWriter, outcome: Outcome, has_result: bool) -> Outcome:
    """Write the result. If that is impossible (a full disk, a lost attempt), the outcome says so."""
    try:
        if outcome.error:
            run.event("lost" if outcome.is_loss else outcome.state, outcome.error)
        if has_result:
            run.finish(outcome.state, outcome.exit_code, outcome.error, **outcome.facts)
        else:
            run.flush()
    except (OSError, TenchError) as error:
        words = f"{outcome.error or 'done'}; but the result could not be written: {error}"
        return Outcome("failed", outcome.exit_code or 1, words, outcome.facts)
    return outcome


@contextmanager
def _stop_on_signals(run: RunWriter) -> Iterator[None]:
    """SIGTERM and the first SIGINT ask for a stop; a second SIGINT raises KeyboardInterrupt."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        if asked.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.set()
        run.request_stop()
        os.write(2, b"\nStopping at the next safe point; Ctrl-C again to stop at once.\n")

    before = {s: signal.signal(s, on_signal) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
