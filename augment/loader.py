"""Batches of a dataset for training and evaluation: the door of this package, useful with any PyTorch script.

with Loader("small", LoaderSettings(global_batch=64)) as loader:
    for epoch in range(90):
        loader.set_epoch(epoch)
        for images, labels, _ in loader:
            ...
"""

import os
import queue
import threading
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from augment.choices import Choices, choose
from augment.finish import Finish
from augment.order import EpochOrder, order_id
from augment.pipeline import IN_FLIGHT, JpegDecoder
from augment.reader import by_place, payload_views
from augment.settings import LoaderSettings
from augment.views import evaluation_views
from ingest.dataset import Dataset
from ingest.errors import DamageError, RefusedError, UsageError

STATE_VERSION = 1


class Batch(NamedTuple):
    """One rank's share of a global batch of n samples (n can be 0 in a short last batch).

    `images`: (n, 3, crop, crop), or (n, 10, 3, crop, crop) for ten views, channels last. `labels` and
    `sample_numbers`: int64 (n,); labels are on the images' device. `places`: int64 (n,), the samples' places in the
    global batch.
    """

    images: torch.Tensor
    labels: torch.Tensor
    sample_numbers: torch.Tensor
    places: torch.Tensor


class _Share(NamedTuple):
    """What a rank has to deliver for one step."""

    places: npt.NDArray[np.int64]
    positions: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]


class Loader:
    """Batches of one split for one rank. Deterministic: step s of epoch e holds the same samples with the same
    crops, flips and colours for every number of ranks, threads and resumes.

    `views` 0 trains (random crops, flips, colour); 1 or 10 evaluate: every sample exactly once over all ranks, in
    fixed order, divided by `divide_test`, without noise. Raises RefusedError if the dataset does not fit, DamageError
    from the iteration if a payload changed.
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
        self.rank, self.world_size, self.views = rank, world_size, views
        self.waited_s = 0.0
        self._epoch, self._step = 0, 0
        self._refuse_misfits()
        threads = settings.threads or len(os.sched_getaffinity(0))
        divide = settings.divide_test if views else settings.divide
        self._finish = Finish(
            self.dataset.mean, settings.mean, settings.crop, divide=divide, output=settings.output,
            device=torch.device(device), threads=threads,
        )  # fmt: skip
        share = -(-settings.global_batch // world_size)
        self._decoder = JpegDecoder(share, threads) if self.dataset.payload == "jpeg" else None
        self._producer: _Producer | None = None

    def __len__(self) -> int:
        """Steps of an epoch: the same on every rank."""
        return self._order(self._epoch).num_steps

    def set_epoch(self, epoch: int) -> None:
        """The epoch that the next iteration runs, from its first step."""
        if epoch != self._epoch:
            self._epoch, self._step = epoch, 0

    def __iter__(self) -> Iterator[Batch]:
        """The rest of the epoch: from its first step, or from a loaded state's."""
        self._stop()
        producer = self._producer = _Producer(self, self._step)
        try:
            for _ in range(self._step, len(self)):
                started = time.perf_counter()
                batch = producer.next()
                self.waited_s += time.perf_counter() - started
                self._step += 1
                yield batch
            self._step = 0
        finally:
            producer.stop()

    def state_dict(self) -> dict[str, Any]:
        """Where the loader stands, counted in batches that were delivered."""
        return {
            "version": STATE_VERSION,
            "epoch": self._epoch,
            "step": self._step,
            "content_id": self.dataset.content_id,
            "order_id": order_id(self.settings),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state. Raises RefusedError naming what differs."""
        wanted = self.state_dict()
        names = {"version": "version", "content_id": "content (dataset)", "order_id": "order (seed, batch, tail ...)"}
        for key, words in names.items():
            if state.get(key) != wanted[key]:
                raise RefusedError(
                    f"loader state: {words} is {state.get(key)}, this loader's is {wanted[key]}; continue with the "
                    "dataset and the settings that the state came from"
                )
        self._epoch, self._step = int(state["epoch"]), int(state["step"])

    def close(self) -> None:
        """End the background work. The loader can be iterated again."""
        self._stop()

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def share(self, step: int) -> _Share:
        """Places in the global batch, positions in the epoch and rows of the index of this rank's samples."""
        order = self._order(self._epoch)
        positions = order.positions(step)
        rows = order.samples(positions)
        sorted_places = by_place(self.split, rows) if self.settings.window else None
        places = order.share(step, self.rank, self.world_size, sorted_places)
        return _Share(places, positions[places], rows[places])

    def start(self, share: _Share) -> list[npt.NDArray[np.uint8]]:
        """Read a share's payloads, and begin to decode them if they are JPEGs."""
        views = payload_views(self.split, share.rows)
        if self._decoder is not None and views:
            self._decoder.start(views)
        return views

    def deliver(self, share: _Share, views: list[npt.NDArray[np.uint8]]) -> Batch:
        """Finish a share that was started; in the order of the starts."""
        pictures = self._pictures(share, views)
        if self.views:
            images = self._evaluation_images(pictures, len(share.rows))
        else:
            choices = choose(
                self.settings, self.dataset.side, self.dataset.pca, self._epoch, share.rows, share.positions
            )
            images = self._finish.images(self._finish.crops(pictures, choices), choices)
        labels = torch.from_numpy(self.split.label[share.rows].astype(np.int64)).to(images.device)
        return Batch(images, labels, torch.from_numpy(share.rows.copy()), torch.from_numpy(share.places.copy()))

    def _pictures(self, share: _Share, views: list[npt.NDArray[np.uint8]]) -> torch.Tensor | list[torch.Tensor]:
        side = self.dataset.side
        if not views:
            return []
        if self._decoder is None:
            return [torch.from_numpy(view).view(side, side, 3) for view in views]
        try:
            return self._decoder.wait()
        except RuntimeError as error:
            raise DamageError(self._undecodable(share, views)) from error

    def _undecodable(self, share: _Share, views: list[npt.NDArray[np.uint8]]) -> str:
        """Name the picture that the decoder refused: the decoder itself does not."""
        import io

        from PIL import Image

        for row, view in zip(share.rows, views, strict=True):
            try:
                Image.open(io.BytesIO(view.tobytes()), formats=("JPEG",)).load()
            except (OSError, SyntaxError, ValueError) as error:
                return f"{self.dataset.uri}: {self.split.key(int(row))} cannot be decoded ({error}); ingest it again"
        return f"{self.dataset.uri}: a batch of samples {share.rows.tolist()} cannot be decoded; run `tench verify`"

    def _evaluation_images(self, pictures: torch.Tensor | list[torch.Tensor], n: int) -> torch.Tensor:
        stacked = []
        for view in evaluation_views(self.dataset.side, self.settings.crop, self.views):
            choices = Choices(
                np.full(n, view.y), np.full(n, view.x), np.full(n, view.mirror), np.zeros((n, 3), np.float32)
            )
            stacked.append(self._finish.images(self._finish.crops(pictures, choices), choices))
        return stacked[0] if self.views == 1 else torch.stack(stacked, dim=1)

    def _order(self, epoch: int) -> EpochOrder:
        sizes = [s.num_samples for s in self.split.shards]
        return EpochOrder(self.split.num_samples, self.settings, epoch, sizes)

    def _stop(self) -> None:
        if self._producer is not None:
            self._producer.stop()
            self._producer = None

    def _refuse_misfits(self) -> None:
        settings, side = self.settings, self.dataset.side
        if settings.crop > side:
            raise UsageError(f"crop: {settings.crop} pixels, but the pictures of {self.dataset.uri} have {side}")
        if not 0 <= self.rank < self.world_size:
            raise UsageError(f"rank {self.rank}: expected 0 to {self.world_size - 1} for world size {self.world_size}")
        if self.views not in (0, 1, 10):
            raise UsageError(f"views {self.views}: expected 0 (training), 1 (centre) or 10")
        if self.split.num_samples == 0:
            raise RefusedError(f"{self.dataset.uri}: split {self.split.name} holds no samples")
        if not self.views and (self.split.label < 0).any():
            raise RefusedError(f"{self.dataset.uri}: split {self.split.name} has no labels; it cannot be trained on")
        if not self.views and settings.tail == "drop" and settings.global_batch > self.split.num_samples:
            raise UsageError(
                f"global batch {settings.global_batch}: more than the {self.split.num_samples} samples of "
                f"{self.split.name}, and tail `drop` leaves no batch; take a smaller one"
            )


class _Producer:
    """Makes the batches of an epoch in a thread, `prefetch` of them ahead of use."""

    def __init__(self, loader: Loader, first_step: int) -> None:
        self._loader = loader
        self._steps = range(first_step, len(loader))
        self._ready: queue.Queue[Batch | BaseException] = queue.Queue(maxsize=loader.settings.prefetch)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tench-loader", daemon=True)
        self._thread.start()

    def next(self) -> Batch:
        """The next batch; raises what the thread ended with."""
        item = self._ready.get()
        if isinstance(item, BaseException):
            raise item
        return item

    def stop(self) -> None:
        """End the thread; what it has under way is thrown away."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        under_way: list[tuple[_Share, list[npt.NDArray[np.uint8]]]] = []
        try:
            for step in self._steps:
                share = self._loader.share(step)
                under_way.append((share, self._loader.start(share)))
                if len(under_way) == IN_FLIGHT and not self._put(self._loader.deliver(*under_way.pop(0))):
                    break
            while under_way and self._put(self._loader.deliver(*under_way.pop(0))):
                continue
        except BaseException as error:  # noqa: BLE001 - handed to the consumer, who raises it
            self._put(error)
        finally:
            for share, views in under_way:
                self._discard(share, views)

    def _discard(self, share: _Share, views: list[npt.NDArray[np.uint8]]) -> None:
        """Take a started batch out of the decoder, so that it is free for the next epoch."""
        try:
            self._loader._pictures(share, views)
        except DamageError:
            self._stopping.set()

    def _put(self, item: Batch | BaseException) -> bool:
        """Hand over an item; False if the consumer has gone."""
        while not self._stopping.is_set():
            try:
                self._ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False
