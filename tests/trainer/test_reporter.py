"""What a training tells of its workers, read from the run folder without our code."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ingest.progress import RunWriter
from ingest.storage import Place
from trainer.norms import StepNorms
from trainer.reporter import Reporter, Standing, StepSums

SECONDS = 1000.0


def told(folder: Path, *waits_s: tuple[float, ...]) -> dict[str, Any]:
    """The figures of the progress after steps in which the ranks waited so many seconds; the last one is reported."""
    network = torch.nn.Sequential(torch.nn.Linear(2, 2))
    network(torch.ones(1, 2)).sum().backward()
    run = RunWriter.begin(Place(folder), "train", {})
    reporter = Reporter(run, torch.device("cpu"), None)
    reporter.leave_out(-SECONDS)  # as if so much time had passed since it began
    for i, waits in enumerate(waits_s, 1):
        norms = StepNorms(network) if i == len(waits_s) else None
        standing = Standing(step=i, epoch=0, epochs=1, done=i, total=9, rate=0.1, errors=None)
        reporter.after_step(StepSums(1.0, 1.0, 4.0, max(waits), waits), standing, norms)
    run.flush()
    progress: dict[str, Any] = json.loads((folder / "progress" / "0001.json").read_text())
    return dict(progress["figures"])


def test_the_seconds_that_each_worker_waited_add_up_over_the_steps_of_a_report(tmp_path: Path) -> None:
    shares = told(tmp_path, (100.0, 300.0), (100.0, 100.0), (50.0, 0.0))["waiting_by_rank"]
    assert shares == pytest.approx([0.25, 0.4], abs=0.01)


def test_one_worker_alone_has_no_list_of_workers(tmp_path: Path) -> None:
    figures = told(tmp_path, (2 * SECONDS,))
    assert "waiting_by_rank" not in figures
    assert figures["data_wait_share"] == 1.0
