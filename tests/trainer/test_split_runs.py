"""Runs under Ray Train whose columns lie on two workers: they can be evaluated and go on like any other."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ingest.errors import DamageError
from tests.trainer.runs import SMALL, Left, train_here
from tests.trainer.test_columns import NEAR, NEAR_LATER, STEPS, apart, assert_near, assert_same_state
from tests.trainer.test_launch import damage_a_picture_of_rank_1

pytestmark = pytest.mark.slow


@pytest.mark.timeout(400)
def test_a_run_of_the_command_over_two_workers_goes_on_in_one_process(
    tiny_dataset: str, unbroken: Left, folder: Path
) -> None:
    flags = ["--preset", "demo", "--global-batch", 40, "--device", "cpu", "--checkpoint-minutes", 1e-9]
    flags += [word for switch in SMALL for word in ("--switch", switch)] + ["--keep-checkpoints", 9]
    flags = ["train", tiny_dataset, folder, "--cpus-per-worker", 1, *flags]
    facts = tench(*flags, "--epochs", 1, "--num-workers", 2, "--split-columns")
    left = Left(folder)
    assert (facts["world_size"], facts["steps"], facts["num_samples"]) == (2, 2, 30)
    assert left.names == list(STEPS)
    for name, within in zip(STEPS, (NEAR, NEAR_LATER), strict=True):
        assert_same_state(left, unbroken, name)
        assert_near(left, unbroken, name, within)

    evaluated = tench("evaluate", tiny_dataset, folder)
    assert evaluated["top1_error"] == facts["top1_error"]
    assert evaluated["loss"] == pytest.approx(facts["loss"], rel=1e-5)

    tench(*flags, "--epochs", 2, "--num-workers", 0, "--resume")
    assert left.names == [*STEPS, "step-00000003.0002", "step-00000004.0002"]
    for name in ("step-00000003", "step-00000004"):
        ours, theirs = left.tensors(f"{name}.0002")["network"], unbroken.tensors(f"{name}.0001")["network"]
        assert apart(ours, theirs) < NEAR_LATER


def test_a_damaged_picture_which_both_columns_meet_ends_the_run_with_its_name(
    tiny_dataset: str, folder: Path, tmp_path: Path
) -> None:
    copy = str(shutil.copytree(tiny_dataset, tmp_path / "copy"))
    key = damage_a_picture_of_rank_1(copy)
    with pytest.raises(DamageError, match=key):
        train_here(copy, folder, num_workers=2, cpus_per_worker=1, split_columns=True)
    assert Left(folder).names == []


def tench(*arguments: object) -> dict[str, Any]:
    """The facts that a command prints."""
    command = [sys.executable, "-m", "cluster.cli", *map(str, arguments), "--json"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    facts: dict[str, Any] = json.loads(ended.stdout)
    return facts
