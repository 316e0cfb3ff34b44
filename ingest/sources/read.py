"""The bytes of entries, read ahead of their use."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from ingest.errors import TenchError
from ingest.sources.entry import Entry
from ingest.storage import Place

LOCAL_AHEAD, REMOTE_AHEAD = 8, 32
LOCAL_THREADS, REMOTE_THREADS = 1, 8


def read_entries(place: Place, entries: Sequence[Entry]) -> Iterator[bytes]:
    """Bytes of each entry, in order; the next ones are read meanwhile. Raises TenchError if a file has changed."""
    ahead, threads = (LOCAL_AHEAD, LOCAL_THREADS) if place.is_local else (REMOTE_AHEAD, REMOTE_THREADS)
    waiting: deque[Future[bytes]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="read-ahead") as pool:
        try:
            for entry in entries:
                waiting.append(pool.submit(_read, place, entry))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _read(place: Place, entry: Entry) -> bytes:
    data = place.get_range(entry.archive, entry.offset, entry.length)
    if len(data) != entry.length:
        raise TenchError(
            f"{place.name(entry.archive)}: {len(data)} bytes at {entry.offset} where {entry.length} were listed for "
            f"{entry.key}; the source changed while it was read"
        )
    return data
