"""Shards of a split that lies in an object store: mapped through the cache, the coming ones fetched meanwhile."""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

from obstore.exceptions import BaseError

from augment.cache import ShardCache
from augment.reader import Bytes
from augment.settings import LoaderSettings
from ingest.dataset import Split
from ingest.errors import RefusedError, TenchError


class RemoteShards:
    """Maps shards by number, as `Split.map_shard` does for a local dataset.

    Shards of two windows stay mapped at most, those of the one before until they are not among the coming ones any more:
    then the cache may remove them. Raises RefusedError if it cannot hold two windows (a batch, or the ranks of one node,
    may stand on both sides of a border), or, without windows, all shards.
    """

    def __init__(self, split: Split, settings: LoaderSettings) -> None:
        self._split = split
        self._most_mapped = 2 * settings.window or len(split.shards)
        _refuse_what_does_not_fit(split, settings)
        self._cache = ShardCache(Path(settings.cache).expanduser(), _limit(settings))
        self._maps: OrderedDict[int, Bytes] = OrderedDict()
        self._lock, self._one_at_a_time = threading.Lock(), threading.Lock()

    def map_shard(self, number: int) -> Bytes:
        """A shard's bytes, uint8; waits until it is here. Raises DamageError, RefusedError, TenchError (no connection)."""
        if (found := self._mapped(number)) is not None:
            return found
        with self._one_at_a_time:  # So that no two make room for the same.
            found = self._mapped(number)
            return self._map(number) if found is None else found

    def fetch_ahead(self, numbers: Sequence[int]) -> None:
        """Fetch shards in the background, in this order. What is mapped and not among them is let go."""
        with self._lock:
            for number in self._maps.keys() - set(numbers):
                del self._maps[number]
        self._cache.fetch_ahead(self._split.dataset.place, [self._split.shards[number] for number in numbers])

    def _mapped(self, number: int) -> Bytes | None:
        with self._lock:
            if number in self._maps:
                self._maps.move_to_end(number)
            return self._maps.get(number)

    def _map(self, number: int) -> Bytes:
        with self._lock:
            while len(self._maps) >= self._most_mapped:
                self._maps.popitem(last=False)
        place, shard = self._split.dataset.place, self._split.shards[number]
        try:
            found = self._cache.map(place, shard)
        except BaseError as error:
            words = f"{place.name(shard.path)}: cannot be fetched ({str(error).splitlines()[0]})"
            raise TenchError(words) from error
        with self._lock:
            self._maps[number] = found
        return found

    def close(self) -> None:
        """End the background work and let go of what is mapped."""
        self._cache.close()
        self._maps.clear()


def _limit(settings: LoaderSettings) -> int:
    return int(settings.cache_gb * 1e9)


def _refuse_what_does_not_fit(split: Split, settings: LoaderSettings) -> None:
    sizes, window = [shard.size for shard in split.shards], settings.window
    span, pace = 2 * window or len(sizes), window or len(sizes)
    needed = max(sum(sizes[start : start + span]) for start in range(0, len(sizes), pace))
    if needed <= _limit(settings):
        return
    what = f"two windows of {window} shards" if window else "the split without a window"
    raise RefusedError(
        f"{split.dataset.uri}: {what} take {needed:,} bytes, the cache {settings.cache} holds {_limit(settings):,}; raise "
        f"cache_gb, or {'take a smaller window' if window else 'set a window of shards within which the order permutes'}"
    )
