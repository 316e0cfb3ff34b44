"""A run without workers at work: it hears a stop and a later attempt all the same, and leaves workers alone.

Ray Train is imported where it is used: Ray reads its environment when it is imported, and `ray_session` sets that.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ingest.errors import Interrupted
from ingest.progress import RunWriter, ask_to_stop
from ingest.storage import Place
from tests.trainer.runs import Left
from trainer import outcomes

ROOT = Path(__file__).resolve().parents[2]
WITHIN_S = 900


@pytest.fixture
def run(folder: Path) -> RunWriter:
    return RunWriter.begin(Place(folder), "train", {})


@pytest.fixture
def states(ray_session: None) -> Any:
    """The states of Ray Train's controller."""
    from ray.train.v2._internal.execution.controller import state

    return state


@pytest.fixture
def vigil(ray_session: None, run: RunWriter) -> Any:
    """The vigil over the run, before Ray Train has looked for a place for workers."""
    from trainer.vigil import Vigil

    return Vigil(run.place, run.attempt)


def end_of(run: RunWriter) -> str:
    with pytest.raises(Interrupted) as caught:
        outcomes.facts_of(run.place, run.attempt)
    return caught.value.message


def test_a_stop_is_heard_while_workers_are_waited_for(run: RunWriter, vigil: Any) -> None:
    assert not vigil.end_if_asked()
    ask_to_stop(run.place, run.attempt)
    assert vigil.end_if_asked()
    assert end_of(run) == (
        "Stopped while no worker was at work; there is no checkpoint yet, a resume begins with the first step."
    )


def test_a_later_attempt_ends_this_one_in_the_words_of_rank_0(run: RunWriter, vigil: Any) -> None:
    RunWriter.begin(run.place, "train", {})
    with pytest.raises(Interrupted) as caught:
        run.flush()
    assert vigil.end_if_asked()
    assert end_of(run) == caught.value.message
    assert "attempt 2 has taken over" in end_of(run)


def test_workers_that_are_at_work_end_by_themselves(run: RunWriter, vigil: Any, states: Any) -> None:
    ask_to_stop(run.place, run.attempt)
    for at_work in (states.RunningState(), states.PreemptingState(None, 0.0)):
        vigil.after_controller_state_update(states.InitializingState(), at_work)
        assert not vigil.end_if_asked()
    assert outcomes.found(run.place, run.attempt) is None
    vigil.after_controller_state_update(at_work, states.RestartingState(None))
    assert vigil.end_if_asked()


def test_a_run_that_was_done_or_shuts_down_keeps_its_facts(run: RunWriter, vigil: Any, states: Any) -> None:
    ask_to_stop(run.place, run.attempt)
    outcomes.put_facts(run.place, run.attempt, {"steps": 4})
    assert vigil.end_if_asked()  # another worker died after rank 0 was done
    vigil.after_controller_state_update(states.RunningState(), states.ShuttingDownState(states.FinishedState()))
    assert not vigil.end_if_asked()
    assert outcomes.facts_of(run.place, run.attempt) == {"steps": 4}


@pytest.mark.slow
@pytest.mark.timeout(1000)
def test_a_run_whose_only_node_is_lost_for_good_stops_within_seconds(tiny_dataset: str, folder: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    command = [sys.executable, "-m", "tests.trainer.waiting_scenario", tiny_dataset, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=WITHIN_S)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    last = Left(folder).names[-1]
    assert told["outcome"] == (
        "Stopped while no worker was at work; a resume goes on from the checkpoint of step "
        f"{int(last[5:13]):,} (checkpoints/{last})."
    )
    assert told["seconds"] < 20
