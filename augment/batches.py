"""One rank's share of a global batch: which samples it is, their payloads, their finished images."""

import io
import os
from typing import NamedTuple

import numpy as np
import torch

from augment.choices import Choices
from augment.finish import DTYPES, Finish, Picture
from augment.graph import WholeGraph, decoded
from augment.ledger import Ledger
from augment.pipeline import Background, Inputs
from augment.planner import Planned, Planner
from augment.reader import Bytes, PayloadReader, Rows, stored_picture
from augment.workers import Workers
from ingest.errors import DamageError

NOTHING = np.empty(0, np.uint8)


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


class Begun(NamedTuple):
    """A share whose JPEGs are being decoded: `payloads` of `delivered`, the samples that were read. Other payloads
    are read as they are finished."""

    planned: Planned
    payloads: list[Bytes]
    delivered: Rows


class BatchMaker:
    """Makes the batches of one rank. Shares that were begun are completed, or discarded, in the same order."""

    def __init__(self, planner: Planner, reader: PayloadReader, device: torch.device) -> None:
        self.planner, self.reader = planner, reader
        split, settings, views = planner.split, planner.settings, planner.views
        self.split, self.settings, self.views = split, settings, views
        self.threads = settings.threads or len(os.sched_getaffinity(0))
        dataset = split.dataset
        self._finish = Finish(dataset.mean, settings, device, dataset.payload == "centered")
        largest_share = -(-settings.global_batch // planner.world_size)
        whole = settings.finish == "dali" or (settings.finish == "auto" and device.type == "cuda")
        divides = settings.divide_test != 1 or (not views and settings.divide != 1)
        self._whole = (
            WholeGraph(dataset.payload, dataset.mean, settings, divides, device) if whole and views <= 1 else None
        )
        self._dali: Background | None = None
        if self._whole is not None:
            self._dali = Background(self._whole, largest_share, self.threads, device)
        elif dataset.payload == "jpeg":
            self._dali = Background(decoded, largest_share, self.threads, torch.device("cpu"))

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
        delivered = begun.delivered
        images = self._images(begun, delivered, workers)
        if self.views > 1:
            images = images.view(len(delivered), self.views, *images.shape[1:])
        labels = torch.from_numpy(self.split.label[delivered].astype(np.int64)).to(images.device)
        batch = Batch(images, labels, torch.from_numpy(delivered), torch.from_numpy(share.places))
        if not np.array_equal(delivered, share.rows):
            hashes = self.planner.hashes(share._replace(rows=delivered), choices)
        return batch, Ledger.of(hashes)

    def discard(self) -> None:
        """Throw away what was begun and not completed."""
        if self._dali is not None:
            self._dali.discard()

    def close(self) -> None:
        """Throw away what was begun, and let go of decoder and memory."""
        self._finish.buffers.clear()
        if self._dali is not None:
            self._dali.close()

    def _stored(self, delivered: Rows) -> Picture:
        """Pictures as they lie in their shards, checked when they are asked for."""
        kind, side = self.split.dataset.payload, self.split.dataset.side

        def picture(i: int) -> torch.Tensor:
            payload, delivered[i] = self.reader.payload(int(delivered[i]))
            return torch.from_numpy(stored_picture(payload, kind, side))

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
        # A copy on a GPU: DALI's memory goes back to DALI once nobody names it, and the consumer's kernels, on another
        # stream, may then still read it. The copy is torch's own, and lies on this thread's stream before that.
        return done.permute(0, 3, 1, 2).to(DTYPES[self.settings.output], copy=done.is_cuda)

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

        for _ in range(self.split.num_samples):
            row = int(delivered[i])
            try:
                Image.open(io.BytesIO(payload.tobytes()), formats=("JPEG",)).load()
                return payload
            except (OSError, SyntaxError, ValueError) as error:
                words = f"{self.split.dataset.uri}: {self.split.key(row)} cannot be decoded ({error}); ingest it again"
                self.reader.give_up(row, DamageError(words))
            payload, delivered[i] = self.reader.payload((row + 1) % self.split.num_samples)
        raise DamageError(f"{self.split.dataset.uri}: no sample of {self.split.name} can be decoded; ingest it again")
