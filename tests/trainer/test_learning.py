"""Real pictures teach the network something: the small Imagenette, two workers, three seeds, by the command line."""

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

TENCH = Path(sys.executable).parent / "tench"
EPOCHS = 4
SETTINGS = ("--preset", "demo", "--learning-rate", "0.002", "--num-workers", "2", "--switch", "loader.crop=84")
HIGHEST_ERROR = 0.75


def tench(home: Path, *arguments: object) -> dict[str, Any]:
    """The facts that a command prints."""
    command = [str(TENCH), *map(str, arguments), "--json"]
    environment = {**os.environ, "TENCH_HOME": str(home)}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    facts: dict[str, Any] = json.loads(ended.stdout)
    return facts


@pytest.fixture(scope="module")
def dataset(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1,500 training and 360 validation pictures of ten classes, sealed and verified."""
    folder = tmp_path_factory.mktemp("imagenette")
    with tarfile.open(shared_data / "imagenette-small.tar") as archive:
        archive.extractall(folder / "source", filter="data")
    facts = tench(folder, "ingest", folder / "source", folder / "dataset", "--samples-per-shard", 256, "--side", 96)
    assert (facts["num_samples"], facts["num_quarantined"]) == (1860, 0)
    assert tench(folder, "verify", folder / "dataset")["ok"]
    return folder / "dataset"


def errors_by_epoch(run: Path) -> list[float]:
    """Top-1 errors of the run's evaluations, from its events as plain files."""
    lines = [line for file in sorted(run.glob("events/*/*.jsonl")) for line in file.read_text().splitlines()]
    evaluated = [event["data"] for event in map(json.loads, lines) if event["kind"] == "evaluated"]
    return [data["top1_error"] for data in sorted(evaluated, key=lambda data: data["epoch"])]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_two_workers_learn_from_real_pictures(seed: int, dataset: Path, tmp_path: Path) -> None:
    facts = tench(tmp_path, "train", dataset, tmp_path / "run", *SETTINGS, "--epochs", EPOCHS, "--seed", seed)
    errors = errors_by_epoch(tmp_path / "run")
    assert len(errors) == EPOCHS
    assert facts["world_size"] == 2
    assert errors[-1] == facts["top1_error"] <= HIGHEST_ERROR
    assert errors[-1] < errors[0]
