"""Batches of a dataset for training and evaluation: the door of this package, useful with any PyTorch script.

with Loader("small", LoaderSettings(global_batch=64)) as loader:
    for epoch in range(90):
        loader.set_epoch(epoch)
        for batch in loader:
            loss = criterion(network(batch.images), batch.labels)
"""

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from augment.batches import Batch, BatchMaker
from augment.ledger import Ledger
from augment.order import order_facts, order_id
from augment.outside import views_of
from augment.planner import Planner, Share
from augment.producer import Producer
from augment.reader import PayloadReader
from augment.settings import LoaderSettings
from augment.shards import RemoteShards
from ingest.dataset import Dataset, Split
from ingest.errors import RefusedError, UsageError

__all__ = ["Batch", "Ledger", "Loader", "views_of"]

STATE_VERSION = 1
PAYLOADS = ("jpeg", "raw", "centered")


class Loader:
    """Batches of one split for one rank. Deterministic: step s of epoch e holds the same samples with the same
    crops, flips and colours for every number of ranks, threads and resumes.

    `views` 0 trains (random crops, flips, colour); 1 or 10 evaluate: every sample exactly once over all ranks, in
    fixed order, divided by `divide_test`, without noise. `waited_s`: seconds that the consumer has waited for data.
    Raises RefusedError if the dataset does not fit, UsageError if the settings do not; DamageError comes from the
    iteration if a payload changed. One iteration at a time.
    """

    def __init__(
        self,
        dataset: Dataset | str,
        settings: LoaderSettings,
        *,
        split: str = "train",
        rank: int = 0,
        world_size: int = 1,
        device: str | torch.device = "cpu",
        views: int = 0,
    ) -> None:
        self.dataset = Dataset.open(dataset) if isinstance(dataset, str) else dataset
        self.split = self.dataset.split(split)
        self.settings = settings if not views else settings.model_copy(update={"order": "fixed", "tail": "short"})
        self.device = _with_index(torch.device(device))
        self.waited_s = 0.0
        self.ledger = Ledger()
        refuse_misfits(self.split, self.settings, views)
        if not 0 <= rank < world_size:
            raise UsageError(f"rank {rank}: expected 0 to {world_size - 1} for world size {world_size}")
        self.rank, self.world_size = rank, world_size
        self._remote = None if self.dataset.place.is_local else RemoteShards(self.split, self.settings)
        map_shard = self._remote.map_shard if self._remote else self.split.map_shard
        self._reader = PayloadReader(self.split, map_shard, settings.damaged == "replace")
        self._planner = Planner(self.split, self.settings, rank, world_size, views)
        self._maker = BatchMaker(self._planner, self._reader, self.device)
        self._producer: Producer | None = None
        self._epoch, self._step, self._first_step = 0, 0, 0

    def __len__(self) -> int:
        """Steps of an epoch: the same on every rank and in every epoch."""
        return self._planner.num_steps

    def set_epoch(self, epoch: int) -> None:
        """The epoch that the next iteration runs: from its first step, unless a state of this epoch was loaded."""
        if not 0 <= epoch < 2**32:
            raise UsageError(f"epoch {epoch}: expected 0 to {2**32 - 1}")
        if epoch != self._epoch:
            self._epoch, self._step, self._first_step = epoch, 0, 0

    def __iter__(self) -> Iterator[Batch]:
        """One epoch; once after `load_state_dict`, the rest of the state's epoch."""
        self._stop()
        self._step, self._first_step = self._first_step, 0
        self.ledger = Ledger()
        ahead = self._remote.fetch_ahead if self._remote else None
        producer = self._producer = Producer(self._maker, self._epoch, self._step, self.device, ahead)
        try:
            for step in range(self._step, len(self)):
                started = time.perf_counter()
                batch, delivered = producer.next()
                self.waited_s += time.perf_counter() - started
                self.ledger = self.ledger.plus(delivered)
                self._step = step + 1
                yield batch
        finally:
            producer.stop()

    def share(self, step: int) -> Share:
        """Which samples of global batch `step` of the epoch are this rank's."""
        return self._planner.share(self._epoch, step)

    def step_rows(self, step: int) -> npt.NDArray[np.int64]:
        """Places of this rank's samples in global batch `step` of the epoch, int64 (n,)."""
        return self.share(step).places

    def expected_ledger(self, first_step: int = 0) -> Ledger:
        """What the ledgers of all ranks add up to at the end of the epoch, from a step on: from the order alone."""
        return self._planner.expected_ledger(self._epoch, first_step)

    @property
    def damaged(self) -> dict[int, str]:
        """Samples that were replaced so far, and what is wrong with them, by sample number."""
        return dict(self._reader.damaged)

    def state_dict(self) -> dict[str, Any]:
        """Where the loader stands, counted in batches that were delivered: JSON-compatible."""
        return {
            "version": STATE_VERSION,
            "epoch": self._epoch,
            "step": self._step,
            "split": self.split.name,
            "content_id": self.dataset.content_id,
            "order_id": order_id(self.settings),
            "order": order_facts(self.settings),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state: the next iteration runs the rest of its epoch. Raises RefusedError naming what differs."""
        differences = _differences(state, self.state_dict())
        if differences:
            raise RefusedError(
                f"loader state: {'; '.join(differences)}; continue with the dataset and the settings that the state "
                "came from, or start anew without it"
            )
        step = int(state["step"])
        if not 0 <= step <= len(self):
            raise RefusedError(f"loader state: step {step}, but an epoch has {len(self)} steps; start the epoch anew")
        self._stop()
        self._epoch, self._step, self._first_step = int(state["epoch"]), step, step

    def close(self) -> None:
        """End the background work and let go of decoder and memory. A loader of a local dataset can be iterated again."""
        self._stop()
        self._maker.close()
        if self._remote is not None:
            self._remote.close()

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _stop(self) -> None:
        if self._producer is not None:
            self._producer.stop()
            self._producer = None


def _with_index(device: torch.device) -> torch.device:
    """The background thread has a current GPU of its own, so a bare `cuda` is settled here."""
    if str(device) == "cuda":
        return torch.device("cuda", torch.cuda.current_device())
    return device


def _differences(state: dict[str, Any], own: dict[str, Any]) -> list[str]:
    """What keeps a state from being continued here, each as "name is .., this loader's is .."."""
    pairs = [(name, state.get(name), own[name]) for name in ("version", "split", "content_id")]
    if state.get("order_id") != own["order_id"]:
        theirs = state.get("order") or {}
        unlike = [(name, theirs.get(name), value) for name, value in own["order"].items() if theirs.get(name) != value]
        pairs += unlike or [("order_id", state.get("order_id"), own["order_id"])]
    return [f"{name} is {found}, this loader's is {wanted}" for name, found, wanted in pairs if found != wanted]


def refuse_misfits(split: Split, settings: LoaderSettings, views: int) -> None:
    """Raise RefusedError if a split does not fit a loader, UsageError if the settings do not."""
    dataset = split.dataset
    if dataset.payload not in PAYLOADS:
        raise RefusedError(f"{dataset.uri}: payload {dataset.payload}; the loader reads {' and '.join(PAYLOADS)}")
    if settings.border and settings.output == "uint8":
        raise UsageError("border: its zeros come after the mean, which output `uint8` leaves out; take another output")
    if dataset.payload == "centered" and (settings.mean != "aligned" or settings.output == "uint8"):
        raise UsageError(
            f"{dataset.uri}: its pictures are stored with the mean image subtracted, so that mean is `aligned` and "
            "output float32 or bfloat16; take these, or the raw dataset that it was made of"
        )
    if settings.crop > dataset.side:
        raise UsageError(f"crop: {settings.crop} pixels, but the pictures of {dataset.uri} have {dataset.side}")
    if views not in (0, 1, 10):
        raise UsageError(f"views {views}: expected 0 (training), 1 (centre) or 10")
    if split.num_samples == 0:
        raise RefusedError(f"{dataset.uri}: split {split.name} holds no samples")
    if not views and (split.label < 0).any():
        raise RefusedError(f"{dataset.uri}: split {split.name} has no labels; it cannot be trained on")
    if not views and settings.tail == "drop" and settings.global_batch > split.num_samples:
        raise UsageError(
            f"global batch {settings.global_batch}: more than the {split.num_samples} samples of {split.name}, and "
            "tail `drop` leaves no batch; take a smaller one"
        )
