"""One rank's share of a global batch: which samples it is, their payloads, their finished images."""

import io
import os
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from augment.choices import Choices, choose
from augment.finish import Finish, Pictures
from augment.order import EpochOrder
from augment.pipeline import JpegDecoder
from augment.reader import by_place, payload_views, read_ahead
from augment.settings import LoaderSettings
from augment.views import evaluation_views
from augment.workers import Workers
from ingest.dataset import Split
from ingest.errors import DamageError

Rows = npt.NDArray[np.int64]


class Batch(NamedTuple):
    """One rank's share of a global batch: n samples (n can be 0 in a short last batch).

    `images`: (n, 3, crop, crop), or (n, 10, 3, crop, crop) for ten views, channels last. `labels` and
    `sample_numbers`: int64 (n,); labels are on the images' device. `places`: int64 (n,), the samples' places in the
    global batch.
    """

    images: torch.Tensor
    labels: torch.Tensor
    sample_numbers: torch.Tensor
    places: torch.Tensor


class Share(NamedTuple):
    """What a rank has to deliver for one step of an epoch; int64 arrays of one length."""

    epoch: int
    places: Rows
    positions: Rows
    rows: Rows


class Begun(NamedTuple):
    """A share whose payloads were read; JPEGs are being decoded."""

    share: Share
    payloads: list[npt.NDArray[np.uint8]]


class BatchMaker:
    """Makes the batches of one rank. Shares that were begun are completed, or discarded, in the same order.

    `views` 0: training; 1 or 10: evaluation.
    """

    def __init__(
        self, split: Split, settings: LoaderSettings, rank: int, world_size: int, device: torch.device, views: int
    ) -> None:
        self.split, self.settings, self.views = split, settings, views
        self.rank, self.world_size = rank, world_size
        self.threads = settings.threads or len(os.sched_getaffinity(0))
        dataset = split.dataset
        divide = settings.divide_test if views else settings.divide
        self._finish = Finish(dataset.mean, settings.mean, settings.crop, divide, settings.output, device)
        largest_share = -(-settings.global_batch // world_size)
        self._decoder = JpegDecoder(largest_share, self.threads) if dataset.payload == "jpeg" else None
        self._shard_sizes = [shard.num_samples for shard in split.shards]
        self._order = self._order_of(0)

    @property
    def num_steps(self) -> int:
        """Steps of an epoch: the same for every epoch and rank."""
        return self._order_of(0).num_steps

    def share(self, epoch: int, step: int) -> Share:
        """Which samples this rank has in a step."""
        order = self._order
        if order.epoch != epoch:
            order = self._order = self._order_of(epoch)
        positions = order.positions(step)
        rows = order.samples(positions)
        sorted_places = by_place(self.split, rows) if self.settings.window else None
        places = order.share(step, self.rank, self.world_size, sorted_places)
        return Share(epoch, places, positions[places], rows[places])

    def read_ahead(self, share: Share) -> None:
        """Let the system fetch the payloads of a share that will be begun soon."""
        read_ahead(self.split, share.rows)

    def begin(self, share: Share) -> Begun:
        """Read and check a share's payloads, and begin to decode them. Raises DamageError."""
        payloads = payload_views(self.split, share.rows)
        if self._decoder is not None and payloads:
            self._decoder.start(payloads)
        return Begun(share, payloads)

    def complete(self, begun: Begun, workers: Workers) -> Batch:
        """The batch. Raises DamageError if a payload cannot be decoded."""
        share, pictures = begun.share, self._pictures(begun)
        images = self._evaluation(share, pictures, workers) if self.views else self._training(share, pictures, workers)
        labels = torch.from_numpy(self.split.label[share.rows].astype(np.int64)).to(images.device)
        return Batch(images, labels, torch.from_numpy(share.rows), torch.from_numpy(share.places))

    def discard(self) -> None:
        """Throw away what was begun and not completed."""
        if self._decoder is not None:
            self._decoder.discard()

    def close(self) -> None:
        """Throw away what was begun, and let go of decoder and memory."""
        self._finish.buffers.clear()
        if self._decoder is not None:
            self._decoder.close()

    def _order_of(self, epoch: int) -> EpochOrder:
        return EpochOrder(self.split.num_samples, self.settings, epoch, self._shard_sizes)

    def _pictures(self, begun: Begun) -> Pictures:
        """n uint8 (side, side, 3) pictures."""
        side = self.split.dataset.side
        if self._decoder is None:
            return [torch.from_numpy(payload).view(side, side, 3) for payload in begun.payloads]
        if not begun.payloads:
            return []
        try:
            return self._decoder.wait()
        except RuntimeError as error:
            raise DamageError(self._undecodable(begun)) from error

    def _training(self, share: Share, pictures: Pictures, workers: Workers) -> torch.Tensor:
        dataset = self.split.dataset
        choices = choose(self.settings, dataset.side, dataset.pca, share.epoch, share.rows, share.positions)
        return self._finish.images(pictures, np.arange(len(share.rows)), choices, workers)

    def _evaluation(self, share: Share, pictures: Pictures, workers: Workers) -> torch.Tensor:
        n, views = len(share.rows), evaluation_views(self.split.dataset.side, self.settings.crop, self.views)
        y, x, mirror = (np.tile(np.array(column), n) for column in zip(*views, strict=True))
        choices = Choices(y, x, mirror, np.zeros((n * len(views), 3), np.float32))
        images = self._finish.images(pictures, np.repeat(np.arange(n), len(views)), choices, workers)
        return images if self.views == 1 else images.view(n, len(views), *images.shape[1:])

    def _undecodable(self, begun: Begun) -> str:
        """Name the picture that the decoder refused: the decoder itself does not."""
        from PIL import Image

        uri = self.split.dataset.uri
        for row, payload in zip(begun.share.rows, begun.payloads, strict=True):
            try:
                Image.open(io.BytesIO(payload.tobytes()), formats=("JPEG",)).load()
            except (OSError, SyntaxError, ValueError) as error:
                return f"{uri}: {self.split.key(int(row))} cannot be decoded ({error}); ingest it again"
        return f"{uri}: samples {begun.share.rows.tolist()} cannot be decoded together; run `tench verify {uri}`"
