"""What one of two ranks (gloo) does in the tests of what ranks agree upon: FOLDER/RANK.json says what it found."""

import json
import os
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from ingest.dataset import Dataset
from ingest.errors import TenchError
from ingest.progress import RunWriter
from ingest.storage import Place
from tests.trainer.runs import HERE, RECIPE
from trainer import checkpoint, halting
from trainer import fit as fit_module
from trainer.fit import fit, prepare
from trainer.presets import recipe
from trainer.settings import TrainSettings
from trainer.training import RankContext, Training

CPU = torch.device("cpu")
BATCH = 2
"""Samples of an evaluation batch on each rank: 8 batches."""


def rank_main(rank: int, folder: str, dataset: str) -> None:
    """Choose a checkpoint while rank 1 sees another folder than rank 0; then train until rank 0 is asked to stop."""
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    found: dict[str, Any] = {
        name: chosen(Place(Path(folder, name, f"seen-by-{rank}"))) for name in ("later", "nothing", "unseen")
    }
    found["stop"] = stopped_in_evaluation(rank, folder, dataset)
    dist.destroy_process_group()
    Path(folder, f"{rank}.json").write_text(json.dumps(found))


def chosen(run: Place) -> str | None:
    try:
        found = checkpoint.agreed(run, CPU)
    except TenchError as error:
        return error.message
    return found.path if found else None


def stopped_in_evaluation(rank: int, folder: str, dataset: str) -> dict[str, Any]:
    """Rank 0 is asked to stop before the second batch of the first evaluation."""
    settings, opened = TrainSettings(**{**RECIPE, **HERE, "num_workers": 2}), Dataset.open(dataset)
    run = RunWriter.begin(Place(Path(folder, "run")), "train", {}) if rank == 0 else None
    looks: list[int] = []
    plain = halting.stop_in_evaluation

    def counted(training: Training) -> Any:
        look = plain(training)

        def counting() -> None:
            looks.append(training.step)
            if len(looks) == 2 and run is not None:
                run.request_stop()
            look()

        return counting

    halting.stop_in_evaluation, fit_module.EVALUATION_BATCH = counted, BATCH
    training = prepare(RankContext(rank, 2, CPU, 1), opened, recipe(settings, opened), settings, run)
    try:
        return {"facts": fit(training, None), "looks": looks}
    except TenchError as error:
        return {"error": type(error).__name__, "message": error.message, "looks": looks}
    finally:
        if run is not None:
            run.flush()
