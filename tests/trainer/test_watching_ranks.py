"""What several workers say when the run that they share goes wrong: all the same."""

import json
from pathlib import Path
from typing import Any

import pytest

from ingest.errors import TenchError
from tests.augment.stored import Stored
from tests.trainer.runs import AFTER_EVERY_STEP, Left, train_here
from tests.trainer.test_watching import SMALL

pytestmark = pytest.mark.slow
TWO: dict[str, Any] = {**SMALL, "num_workers": 2, "cpus_per_worker": 1}


def said(folder: Path, attempt: int = 1) -> list[dict[str, str]]:
    """How each rank ended, by rank."""
    return [json.loads(file.read_text()) for file in sorted((folder / f"workers/{attempt:04d}").iterdir())]


def test_both_ranks_of_a_diverged_run_name_the_same_samples_and_keep_the_last_good_checkpoint(
    tiny_dataset: str, folder: Path
) -> None:
    with pytest.raises(TenchError, match="the run diverged") as caught:
        train_here(tiny_dataset, folder, **TWO, **AFTER_EVERY_STEP, learning_rate=100.0)
    first, second = said(folder)
    left = Left(folder)
    (diverged,) = left.events("diverged")
    assert caught.value.message == first["message"]
    assert left.names[-1] in first["message"]
    assert {first["error"], second["error"]} == {"TenchError"}
    path = f" (checkpoints/{left.names[-1]})"
    assert second["message"] == first["message"].replace(path, "")
    assert set(diverged["keys"]) <= {row["key"] for row in Stored(Path(tiny_dataset)).index}
    assert len(diverged["keys"]) == 10


def test_a_stuck_run_of_two_workers_ends_with_one_checkpoint_and_one_sentence(tiny_dataset: str, folder: Path) -> None:
    switch = (*SMALL["switch"], "network.init=paper")
    chosen = {**TWO, "switch": switch, "learning_rate": 1e-9, "global_batch": 20, "stuck_after": 2}
    with pytest.raises(TenchError, match="step 2: the mean loss of the last 2 steps"):
        train_here(tiny_dataset, folder, **chosen)
    assert len({ended["message"] for ended in said(folder)}) == 1
    assert Left(folder).names == ["step-00000002.0001"]
