"""What ranks do together they decide together: the checkpoint that they go on from, and a stop in an evaluation."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.multiprocessing.spawn import spawn

from ingest.storage import Place
from tests.trainer.rank_worker import rank_main
from tests.trainer.runs import Left
from trainer import checkpoint

Found = dict[str, Any]
OLD, NEW = "checkpoints/step-00000004.0001", "checkpoints/step-00000005.0001"


def checkpoints(folder: Path, *steps: int) -> None:
    folder.mkdir(parents=True)
    for step in steps:
        checkpoint.save(Place(folder), 1, {"step": step}, {"w": torch.zeros(1)}, {})


@pytest.fixture(scope="module")
def ranks(tiny_dataset: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Found, Found]]:
    folder = tmp_path_factory.mktemp("ranks")
    seen = {"later": ([4], [4, 5]), "nothing": ([], [4]), "unseen": ([5], [])}
    for name, by_rank in seen.items():
        for rank, steps in enumerate(by_rank):
            checkpoints(folder / name / f"seen-by-{rank}", *steps)
    spawn(rank_main, (str(folder), tiny_dataset), nprocs=2)
    first, second = (json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1))
    yield folder, first, second
    shutil.rmtree(folder)


def test_every_rank_goes_on_from_the_checkpoint_that_rank_0_found_newest(ranks: tuple[Path, Found, Found]) -> None:
    _, first, second = ranks
    assert first["later"] == second["later"] == OLD
    assert first["nothing"] is second["nothing"] is None


def test_a_rank_that_does_not_see_rank_0s_checkpoint_says_so(ranks: tuple[Path, Found, Found]) -> None:
    _, first, second = ranks
    assert first["unseen"] == NEW
    assert second["unseen"].endswith("rank 1 does not see it; take a run folder that all workers share")


def test_a_stop_in_an_evaluation_ends_every_rank_before_the_same_batch(ranks: tuple[Path, Found, Found]) -> None:
    folder, first, second = ranks
    assert first["stop"]["error"] == "Interrupted"
    assert first["stop"]["message"].startswith("Stopped in the evaluation after step 2;")
    assert second["stop"] == first["stop"]
    assert first["stop"]["looks"] == [2] * 5
    left = Left(folder / "run")
    found, _ = checkpoint.newest(Place(left.folder))
    assert found is not None
    assert (found.path, found.state["evaluation_due"]) == ("checkpoints/step-00000002.0001", True)
