"""What a rank delivers in each step: which samples, what happens to them, what the ledger enters. No payload is read."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from augment.choices import Choices, choose, view_choices
from augment.ledger import Hashes, Ledger, sample_hashes
from augment.order import EpochOrder
from augment.reader import Rows, by_place
from augment.settings import LoaderSettings
from ingest.dataset import Split

TOGETHER = 4096
"""Samples of a global batch, or of several, whose choices are worked out together."""
LOOKS = 64
AT_ONCE = 65_536
"""Samples whose choices are worked out together when a whole epoch is added up."""


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


class Planner:
    """Plans the steps of one rank. `views` 0: training; 1 or 10: evaluation."""

    def __init__(self, split: Split, settings: LoaderSettings, rank: int, world_size: int, views: int) -> None:
        self.split, self.settings, self.views = split, settings, views
        self.rank, self.world_size = rank, world_size
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
            hashes = self.hashes(joined, choices)
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

    def choices(self, share: Share) -> Choices:
        """What happens to each sample of a share; for evaluation, its views, one sample after another."""
        if not self.views:
            dataset = self.split.dataset
            return choose(self.settings, dataset.side, dataset.pca, share.epoch, share.rows, share.positions)
        return view_choices(self.settings, self.split.dataset.side, self.views, len(share.rows))

    def hashes(self, share: Share, choices: Choices) -> Hashes:
        """What is entered for the samples of a share; of several views, the first counts."""
        first = slice(None, None, max(self.views, 1))
        parts = (
            choices.y[first],
            choices.x[first],
            choices.mirror[first],
            choices.offset[first],
            choices.divide[first],
        )
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
            total = total.plus(Ledger.of(self.hashes(share, self.choices(share))))
        return total

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

    def _order_of(self, epoch: int) -> EpochOrder:
        return EpochOrder(self.split.num_samples, self.settings, epoch, self._shard_sizes)
