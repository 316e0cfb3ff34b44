"""One rank of a world of loader processes: in, a list of scenarios; out, what each global batch held, rank 0's file.

Scenario: {"name", "dataset", "settings", "split", "views", "runs"}. Its runs follow one another on one loader:
{"epoch", "stop_after", "load", "save"}, all but `epoch` may be None; `load` and `save` are files of loader states.
Result, by scenario: a list of runs, each {"steps": [[[place, sample number, label, SHA-256 of the image's bytes],
...], ...], "shares": [[rows of each rank], ...], "lengths": [len(loader) of each rank], "states": [of each rank]}.
"""

import hashlib
import json
import os
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

from augment.loader import Batch, Loader
from augment.settings import LoaderSettings

GIVE_UP = timedelta(seconds=120)
Row = tuple[int, int, int, str]
T = TypeVar("T")


def run_world(world_size: int, scenarios: list[dict[str, Any]], folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Start a process for each rank, wait for all of them, and return what rank 0 found. `folder` is new."""
    folder.mkdir()
    (folder / "scenarios.json").write_text(json.dumps(scenarios))
    spawn(rank_main, (world_size, str(folder)), nprocs=world_size)
    found: dict[str, list[dict[str, Any]]] = json.loads((folder / "found.json").read_text())
    return found


def rank_main(rank: int, world_size: int, folder: str) -> None:
    """The life of a rank."""
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", f"file://{folder}/ranks", GIVE_UP, rank=rank, world_size=world_size)
    scenarios = json.loads(Path(folder, "scenarios.json").read_text())
    found = {scenario["name"]: scenario_runs(scenario, rank, world_size) for scenario in scenarios}
    if rank == 0:
        Path(folder, "found.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def scenario_runs(scenario: dict[str, Any], rank: int, world_size: int) -> list[dict[str, Any]]:
    """The runs of a scenario, as all ranks together saw them."""
    settings = LoaderSettings(threads=1, **scenario["settings"])
    world: dict[str, Any] = {"rank": rank, "world_size": world_size}
    with Loader(scenario["dataset"], settings, split=scenario["split"], views=scenario["views"], **world) as loader:
        return [one_run(loader, run, rank) for run in scenario["runs"]]


def one_run(loader: Loader, run: dict[str, Any], rank: int) -> dict[str, Any]:
    """An epoch, its rest, or its beginning."""
    if run["load"]:
        loader.load_state_dict(json.loads(Path(run["load"]).read_text()))
    loader.set_epoch(run["epoch"])
    steps = global_batches(loader, run["stop_after"])
    states = gathered(loader.state_dict())
    if run["save"] and rank == 0:
        Path(run["save"]).write_text(json.dumps(states[0]))
    return {
        "steps": [sorted(row for share in step for row in share) for step in steps],
        "shares": [[len(share) for share in step] for step in steps],
        "lengths": gathered(len(loader)),
        "states": states,
    }


def global_batches(loader: Loader, stop_after: int | None) -> list[list[list[Row]]]:
    """By step, by rank: the rows. Raises RuntimeError if ranks do not end at the same step."""
    steps: list[list[list[Row]]] = []
    if stop_after == 0:
        return steps
    for batch in loader:
        steps.append(complete(gathered(rows_of(batch))))
        if len(steps) == stop_after:
            return steps
    if any(rows is not None for rows in gathered(None)):
        raise RuntimeError(f"a rank goes on after step {len(steps)}, where others have ended")
    return steps


def complete(shares: list[list[Row] | None]) -> list[list[Row]]:
    """The shares of a step that every rank has."""
    whole = [share for share in shares if share is not None]
    if len(whole) < len(shares):
        raise RuntimeError(f"ranks {[r for r, share in enumerate(shares) if share is None]} ended before the others")
    return whole


def rows_of(batch: Batch) -> list[Row]:
    """(place, sample number, label, SHA-256 of the image's bytes in channel-first order) of each sample."""
    hashes = [hashlib.sha256(np.ascontiguousarray(image.numpy()).tobytes()).hexdigest() for image in batch.images]
    columns = (column.tolist() for column in (batch.places, batch.sample_numbers, batch.labels))
    return list(zip(*columns, hashes, strict=True))


def gathered(value: T) -> list[T]:
    """This value of every rank."""
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, value)
    return everyone
