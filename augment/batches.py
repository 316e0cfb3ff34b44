"""One rank's share of a global batch: which samples it is, their payloads, their finished images."""

import io
import os
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch

from augment.choices import Choices, choose
from augment.finish import DTYPES, Finish, Picture
from augment.graph import WholeGraph, decoded
from augment.ledger import Hashes, Ledger, sample_hashes
from augment.order import EpochOrder
from augment.pipeline import Background, Inputs
from augment.reader import Bytes, PayloadReader, Rows, by_place
from augment.settings import LoaderSettings
from augment.views import evaluation_views
from augment.workers import Workers
from ingest.centring import INT16
from ingest.dataset import Split
from ingest.errors import DamageError

NOTHING = np.empty(0, np.uint8)
TOGETHER = 4096
"""Samples of a global batch, or of several, whose choices are worked out together."""
LOOKS = 64
AT_ONCE = 65_536
"""Samples whose choices are worked out together when a whole epoch is added up."""


class Batch(NamedTuple):
    """One rank's share of a global batch: n samples (n can be 0 in a short last batch).

    `images`: (n, 3, s, s), or (n, 10, 3, s, s) for ten views, channels last; s = crop + border. `labels` and
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


class Planned(NamedTuple):
    """A share, what happens to its samples, and the ledger's hash of each, uint64 (n,)."""

    share: Share
    choices: Choices
    hashes: Hashes


class Begun(NamedTuple):
    """A share whose JPEGs are being decoded: `payloads` of `delivered`, the samples that were read. Other payloads
    are read as they are finished."""

    planned: Planned
    payloads: list[Bytes]
    delivered: Rows


class BatchMaker:
    """Makes the batches of one rank. Shares that were begun are completed, or discarded, in the same order.

    `views` 0: training; 1 or 10: evaluation.
    """

    def __init__(
        self, split: Split, reader: PayloadReader, settings: LoaderSettings, ranks: tuple[int, int],
        device: torch.device, views: int,
    ) -> None:  # fmt: skip
        self.split, self.reader, self.settings, self.views = split, reader, settings, views
        self.rank, self.world_size = ranks
        self.threads = settings.threads or len(os.sched_getaffinity(0))
        dataset = split.dataset
        divide = settings.divide_test if views else settings.divide
        self._finish = Finish(dataset.mean, settings, divide, device, dataset.payload == "centered")
        largest_share = -(-settings.global_batch // self.world_size)
        whole = settings.finish == "dali" or (settings.finish == "auto" and device.type == "cuda")
        self._whole = (
            WholeGraph(dataset.payload, dataset.mean, settings, divide, device) if whole and views <= 1 else None
        )
        self._dali: Background | None = None
        if self._whole is not None:
            self._dali = Background(self._whole, largest_share, self.threads, device)
        elif dataset.payload == "jpeg":
            self._dali = Background(decoded, largest_share, self.threads, torch.device("cpu"))
        self._shard_sizes = [shard.num_samples for shard in split.shards]
        self._order = self._order_of(0)

    @property
    def num_steps(self) -> int:
        """Steps of an epoch: the same for every epoch and rank."""
        return self._order_of(0).num_steps

    def share(self, epoch: int, step: int) -> Share:
        """Which samples this rank has in a step."""
        return self._shares(epoch, range(step, step + 1))[0]

    def planned(self, epoch: int, steps: range) -> Iterator[Planned]:
        """Shares and choices of consecutive steps, worked out for several steps at a time: an operation on a few
        hundred samples costs hardly more than one on a few."""
        group = max(1, TOGETHER // self.settings.global_batch)
        for first in range(steps.start, steps.stop, group):
            shares = self._shares(epoch, steps[first - steps.start : first - steps.start + group])
            joined = Share(epoch, *(np.concatenate(parts) for parts in list(zip(*shares, strict=True))[1:]))
            choices, start, views = self.choices(joined), 0, max(self.views, 1)
            hashes = self._hashes(joined, choices)
            for share in shares:
                stop = start + len(share.rows)
                yield Planned(share, choices.part(start * views, stop * views), hashes[start:stop])
                start = stop

    def shards_ahead(self, epoch: int, step: int) -> list[int]:
        """Shards that this rank reads from a step to the end of the window after its own, by first use.

        Looks at some steps only, evenly spread: their shards are needed, and a shard that they miss is fetched by
        whoever reads it.
        """
        stop = min(step + 2 * self.steps_of_window, self.num_steps)
        shares = self._shares(epoch, range(step, stop, -(-(stop - step) // LOOKS)))
        numbers = self.split.shard[np.concatenate([share.rows for share in shares])]
        _, first = np.unique(numbers, return_index=True)
        found: list[int] = numbers[np.sort(first)].tolist()
        return found

    @property
    def steps_of_window(self) -> int:
        """Steps in which a window is read; those of the epoch without windows."""
        if not self.settings.window:
            return self.num_steps
        return -(-self.settings.window * max(self._shard_sizes) // self.settings.global_batch)

    def _shares(self, epoch: int, steps: range) -> list[Share]:
        order = self._order
        if order.epoch != epoch:
            order = self._order = self._order_of(epoch)
        positions = [order.positions(step) for step in steps]
        if self.settings.window:
            rows = np.split(order.samples(np.concatenate(positions)), np.cumsum([len(p) for p in positions])[:-1])
            places = [self._places(order, step, by_place(self.split, r)) for step, r in zip(steps, rows, strict=True)]
            own = [r[place] for r, place in zip(rows, places, strict=True)]
        else:
            places = [self._places(order, step) for step in steps]
            mine = [p[place] for p, place in zip(positions, places, strict=True)]
            own = np.split(order.samples(np.concatenate(mine)), np.cumsum([len(p) for p in mine])[:-1])
        return [Share(epoch, q, p[q], r) for p, q, r in zip(positions, places, own, strict=True)]

    def _places(self, order: EpochOrder, step: int, by_place: Rows | None = None) -> Rows:
        return order.share(step, self.rank, self.world_size, by_place)

    def choices(self, share: Share) -> Choices:
        """What happens to each sample of a share; for evaluation, its views, one sample after another."""
        if not self.views:
            dataset = self.split.dataset
            return choose(self.settings, dataset.side, dataset.pca, share.epoch, share.rows, share.positions)
        n, views = len(share.rows), evaluation_views(self.split.dataset.side, self.settings.crop, self.views)
        y, x, mirror = (np.tile(np.array(column), n) for column in zip(*views, strict=True))
        return Choices(y, x, mirror, np.zeros((n * len(views), 3), np.float32))

    def begin(self, planned: Planned, workers: Workers) -> Begun:
        """Begin to decode a share's payloads, each of them checked. Raises DamageError."""
        share = planned.share
        n = len(share.rows) if self._dali is not None else 0
        payloads, delivered = [NOTHING] * n, share.rows.copy()

        def some(start: int, stop: int) -> None:
            for i in range(start, stop):
                payloads[i], delivered[i] = self.reader.payload(int(share.rows[i]))

        workers.each(some, n)
        if self._dali is not None and n:
            self._dali.start(self._inputs(payloads, planned.choices))
        return Begun(planned, payloads, delivered)

    def complete(self, begun: Begun, workers: Workers) -> tuple[Batch, Ledger]:
        """The batch, and what was delivered with it. Raises DamageError if a payload is damaged or not decodable."""
        share, choices, hashes = begun.planned
        delivered = begun.delivered.copy()
        images = self._images(begun, delivered, workers)
        if self.views > 1:
            images = images.view(len(delivered), self.views, *images.shape[1:])
        labels = torch.from_numpy(self.split.label[delivered].astype(np.int64)).to(images.device)
        batch = Batch(images, labels, torch.from_numpy(delivered), torch.from_numpy(share.places))
        if not np.array_equal(delivered, share.rows):
            hashes = self._hashes(share._replace(rows=delivered), choices)
        return batch, Ledger.of(hashes)

    def _hashes(self, share: Share, choices: Choices) -> Hashes:
        """What is entered for the samples of a share; of several views, the first counts."""
        first = slice(None, None, max(self.views, 1))
        parts = (choices.y[first], choices.x[first], choices.mirror[first], choices.offset[first])
        return sample_hashes(share.epoch, share.rows, Choices(*parts))

    def expected_ledger(self, epoch: int, first_step: int) -> Ledger:
        """What all ranks together deliver from a step to the end of an epoch: from the order alone."""
        order, batch, total = self._order_of(epoch), self.settings.global_batch, Ledger()
        end = order.num_steps * batch
        if self.settings.tail != "wrap":
            end = min(end, self.split.num_samples)
        for start in range(first_step * batch, end, AT_ONCE):
            positions = np.arange(start, min(start + AT_ONCE, end))
            share = Share(epoch, positions, positions, order.samples(positions))
            total = total.plus(Ledger.of(self._hashes(share, self.choices(share))))
        return total

    def discard(self) -> None:
        """Throw away what was begun and not completed."""
        if self._dali is not None:
            self._dali.discard()

    def close(self) -> None:
        """Throw away what was begun, and let go of decoder and memory."""
        self._finish.buffers.clear()
        if self._dali is not None:
            self._dali.close()

    def _order_of(self, epoch: int) -> EpochOrder:
        return EpochOrder(self.split.num_samples, self.settings, epoch, self._shard_sizes)

    def _stored(self, delivered: Rows) -> Picture:
        """Pictures as they lie in their shards, checked when they are asked for."""
        side = self.split.dataset.side

        def picture(i: int) -> torch.Tensor:
            payload, delivered[i] = self.reader.payload(int(delivered[i]))
            if len(payload) == 3 * side * side:
                return torch.from_numpy(payload).view(side, side, 3)
            # Copied: in a shard 16-bit values may begin at an odd byte.
            return torch.from_numpy(payload.copy().view(INT16)).view(side, side, 3)

        return picture

    def _inputs(self, payloads: list[Bytes], choices: Choices) -> Inputs:
        return self._whole.inputs(payloads, choices) if self._whole is not None else {"picture": list(payloads)}

    def _images(self, begun: Begun, delivered: Rows, workers: Workers) -> torch.Tensor:
        """(n, 3, s, s), or n times the views; where a sample is replaced, `delivered` is changed."""
        choices, n = begun.planned.choices, len(delivered)
        if self._dali is None or not n:
            return self._finish.images(self._stored(delivered), n, choices, workers)
        done = self._from_dali(self._dali, begun, delivered)
        if self._whole is None:
            return self._finish.images(done.__getitem__, n, choices, workers)
        return done.permute(0, 3, 1, 2).to(DTYPES[self.settings.output])

    def _from_dali(self, dali: Background, begun: Begun, delivered: Rows) -> torch.Tensor:
        """What DALI made of a batch; if it failed, of the batch without what cannot be decoded. Raises DamageError."""
        try:
            return dali.wait()
        except RuntimeError:
            if self.split.dataset.payload != "jpeg":
                raise
            payloads = [self._decodable(i, delivered, payload) for i, payload in enumerate(begun.payloads)]
        try:
            return dali.once(self._inputs(payloads, begun.planned.choices))
        except RuntimeError as error:
            uri = self.split.dataset.uri
            raise DamageError(
                f"{uri}: samples {delivered.tolist()} cannot be decoded together; run `tench verify {uri}`"
            ) from error

    def _decodable(self, i: int, delivered: Rows, payload: Bytes) -> Bytes:
        """The payload, or that of the sample that replaces it: the decoder itself does not say which one it refuses."""
        from PIL import Image

        while True:
            row = int(delivered[i])
            try:
                Image.open(io.BytesIO(payload.tobytes()), formats=("JPEG",)).load()
                return payload
            except (OSError, SyntaxError, ValueError) as error:
                words = f"{self.split.dataset.uri}: {self.split.key(row)} cannot be decoded ({error}); ingest it again"
                self.reader.give_up(row, DamageError(words))
            payload, delivered[i] = self.reader.payload((row + 1) % self.split.num_samples)
