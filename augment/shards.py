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

    At most a window of shards stays mapped, so that the cache may remove those of the window before. Raises RefusedError
    if the cache cannot hold two windows (ranks of one node may stand on both sides of a border), or, without windows,
    all shards.
    """

    def __init__(self, split: Split, settings: LoaderSettings) -> None:
        self._split = split
        self._num_mapped = settings.window or len(split.shards)
        _refuse_what_does_not_fit(split, settings)
        self._cache = ShardCache(Path(settings.cache).expanduser(), _limit(settings))
        self._maps: OrderedDict[int, Bytes] = OrderedDict()
        self._lock = threading.Lock()

    def map_shard(self, number: int) -> Bytes:
        """A shard's bytes, uint8; waits until it is here. Raises DamageError, RefusedError, TenchError (no connection)."""
        with self._lock:
            if number in self._maps:
                self._maps.move_to_end(number)
                return self._maps[number]
        place = self._split.dataset.place
        try:
            found = self._cache.map(place, self._split.shards[number])
        except BaseError as error:
            raise TenchError(
                f"{place.name(self._split.shards[number].path)}: cannot be fetched ({str(error).splitlines()[0]})"
            ) from error
        with self._lock:
            self._maps[number] = found
            while len(self._maps) > self._num_mapped:
                self._maps.popitem(last=False)
        return found

    def fetch_ahead(self, numbers: Sequence[int]) -> None:
        """Fetch shards in the background, in this order."""
        self._cache.fetch_ahead(self._split.dataset.place, [self._split.shards[number] for number in numbers])

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
