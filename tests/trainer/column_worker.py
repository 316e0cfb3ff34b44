"""What a worker of a split network does in the tests: one of several real processes (gloo), each with one column."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F

from ingest.dataset import Dataset
from ingest.progress import RunWriter
from ingest.storage import Place
from tests.trainer.runs import AFTER_EVERY_STEP, HERE, RECIPE
from trainer import checkpoint
from trainer.columns import ColumnNet, ColumnPlace, join
from trainer.dropout import DropoutKey
from trainer.fit import fit, prepare
from trainer.networks import AlexNet, build
from trainer.norms import StepNorms, all_finite
from trainer.presets import recipe
from trainer.reduce import FlatGradients
from trainer.schedules import Rates
from trainer.settings import TrainSettings
from trainer.switches import NetworkSettings, RuleSettings
from trainer.training import RankContext
from trainer.update import Rule

BATCH, SIDE, SEED = 4, 64, 5
RATES = Rates(0.01, 0.02)
SMALL: dict[str, Any] = {"side": SIDE, "hidden": (64, 32), "num_classes": 10}
CASES: dict[str, tuple[dict[str, Any], int]] = {
    "museum145": ({}, 20),
    "sixth": ({"sixth": True}, 1),
    "no exchange": ({"exchange": False}, 1),
    "sixth, no exchange": ({"sixth": True, "exchange": False}, 1),
    "odd classes, no conv3": ({"num_classes": 7, "without": "conv3"}, 1),
    "inputs dropped": ({"dropout_place": "inputs", "dropout": "scaled", "norm_first": False, "lrn": False}, 1),
}
"""Switches, steps."""
FIT = "fit"

Found = dict[str, Any]


def rank_main(rank: int, folder: str, dataset: str, jobs: dict[int, list[str]]) -> None:
    """By world size the cases to train: what this rank holds at the end, in FOLDER/WORLD-RANK.pt."""
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    for world_size, cases in jobs.items():
        if rank >= world_size:
            continue
        dist.init_process_group("gloo", init_method=f"file://{folder}/{world_size}", rank=rank, world_size=world_size)
        place = join(rank, world_size, 60)
        found: Found = {case: train_split(case, place) for case in cases if case != FIT}
        only_one = torch.tensor([1.0, float("nan") if rank == world_size - 1 else 2.0])
        found["finite"] = all_finite([only_one], place.partners)
        if FIT in cases:
            context = RankContext(rank, world_size, torch.device("cpu"), 1, place)
            found[FIT] = fit_split(context, folder, dataset)
        dist.destroy_process_group()
        torch.save(found, f"{folder}/{world_size}-{rank}.pt")


def batch(step: int, num_classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A step's pictures (4, 3, 64, 64) and labels."""
    generator = torch.Generator().manual_seed(step)
    images = torch.randn(BATCH, 3, SIDE, SIDE, generator=generator) * 60
    return images, torch.randint(num_classes, (BATCH,), generator=generator)


def train_split(case: str, place: ColumnPlace) -> Found:
    """This worker's loss of every step, its answers, and on rank 0 the whole network."""
    switches, steps = CASES[case]
    settings = NetworkSettings(**{**SMALL, **switches})
    whole = build(settings, SEED)
    assert isinstance(whole, AlexNet)
    network = ColumnNet(whole, place)
    flat, rule = FlatGradients(network, 1, place.peers), Rule(network, RuleSettings())
    losses, rows = [], np.arange(BATCH)[place.pair :: place.num_pairs]
    for step in range(steps):
        images, labels = batch(step, settings.num_classes)
        flat.zero()
        flat.arm()
        loss = F.cross_entropy(
            network(images[rows], dropout=DropoutKey(SEED, step, rows)), labels[rows], reduction="sum"
        )
        loss.backward()
        flat.extras += loss.detach().double()
        losses.append(flat.reduce()[0])
        flat.divide(BATCH)
        norm = StepNorms(network, place.partners).gradient_norm
        rule.step(RATES)
    with torch.no_grad():
        logits = network(batch(99, 10)[0])
    tensors = {"network": network.whole(network.state_dict()), "velocity": network.whole(rule.state_dict())}
    sizes = {name: p.numel() for name, p in network.named_parameters()}
    return {"losses": losses, "logits": logits, "norm": norm, "sizes": sizes, **tensors}


def fit_split(context: RankContext, folder: str, dataset: str) -> Found:
    """The facts of a run of one epoch in FOLDER/run-WORLD, from the checkpoint that lies there, if one does."""
    world_size = context.world_size
    chosen = {**RECIPE, **HERE, **AFTER_EVERY_STEP, "epochs": 1, "num_workers": world_size, "split_columns": True}
    settings, opened = TrainSettings(**chosen), Dataset.open(dataset)
    run = Place(Path(folder, f"run-{world_size}"))
    writer = RunWriter.begin(run, "train", {}) if context.rank == 0 else None
    training = prepare(context, opened, recipe(settings, opened), settings, writer)
    try:
        return fit(training, checkpoint.newest(run)[0])
    finally:
        if writer is not None:
            writer.flush()
