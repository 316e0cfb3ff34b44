"""An elastic training on nodes that come and go: no step is lost or done twice, whatever the world size."""

import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from ingest.progress import RunWriter
from ingest.storage import Place
from tests.trainer.runs import Left, train_here
from trainer.settings import TrainSettings

ROOT = Path(__file__).resolve().parents[2]
WITHIN_S = 1000


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_run_grows_with_a_late_node_and_shrinks_when_it_is_lost(
    tiny_dataset: str, folder: Path, tmp_path: Path
) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    command = [sys.executable, "-m", "tests.trainer.elastic_scenario", tiny_dataset, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=WITHIN_S)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert [size for size, _ in itertools.groupby(told["world_sizes"])] == [1, 2, 1]

    left = Left(folder)
    steps = [int(name[5:13]) for name in left.names]
    assert steps == list(range(1, len(steps) + 1))
    assert re.match(rf"Stopped (in the evaluation )?after step {len(steps)};", told["outcome"])
    last = left.state(left.names[-1])
    # Two steps an epoch, of 40 and 20 samples. One that waits for its evaluation is among the epochs already.
    within = 0 if last["evaluation_due"] else last["epoch_sums"]["samples"]
    assert 60 * last["epoch"] + within == 60 * (len(steps) // 2) + 40 * (len(steps) % 2)
    assert len(left.events("resumed")) == 2

    # From the last checkpoint of one worker on, the same steps in one process: another world size rounds otherwise.
    grown = told["world_sizes"].index(2)
    plain = left.copy_checkpoint(left.names[grown - 1], tmp_path / "plain")
    RunWriter.begin(Place(plain), "train", {})
    epochs = min(len(steps), grown + 4) // 2
    train_here(tiny_dataset, plain, epochs=epochs)
    found = left.tensors(left.names[2 * epochs - 1])["network"]
    expected = Left(plain).tensors(f"step-{2 * epochs:08d}.0002")["network"]
    apart = {key: float((found[key] - expected[key]).norm() / expected[key].norm()) for key in found}
    assert max(apart.values()) < 0.01, apart


def test_a_least_number_of_workers_above_the_most_is_refused() -> None:
    with pytest.raises(ValidationError, match="3 is more than the 2 of num_workers"):
        TrainSettings(num_workers=2, min_workers=3)
