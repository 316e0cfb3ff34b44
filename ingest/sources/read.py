"""The bytes of entries that are ranges of files, read ahead of their use."""

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from ingest.errors import TenchError
from ingest.sources.entry import Entry
from ingest.storage import Place

LOCAL_AHEAD, REMOTE_AHEAD, REMOTE_THREADS = 8, 32, 8


def read_ranges(place: Place, entries: Sequence[Entry]) -> Iterator[bytes]:
    """Bytes of each entry, in order; the next ones are fetched meanwhile. Raises TenchError if a file has changed."""
    return _local(place, entries) if place.is_local else _remote(place, entries)


def _local(place: Place, entries: Sequence[Entry]) -> Iterator[bytes]:
    """The system reads ahead by itself once it is told: a thread of our own would cost more than the reading."""
    opened: deque[tuple[Entry, int]] = deque()
    try:
        for entry in entries:
            opened.append((entry, _open(place, entry)))
            if len(opened) > LOCAL_AHEAD:
                yield _take(place, *opened.popleft())
        while opened:
            yield _take(place, *opened.popleft())
    finally:
        for _, file in opened:
            os.close(file)


def _open(place: Place, entry: Entry) -> int:
    try:
        file = os.open(place.local_path(entry.archive), os.O_RDONLY)
    except OSError as error:
        raise changed(place, entry, error.strerror or str(error)) from error
    os.posix_fadvise(file, entry.offset, entry.length, os.POSIX_FADV_WILLNEED)
    return file


def _take(place: Place, entry: Entry, file: int) -> bytes:
    try:
        return _whole(place, entry, os.pread(file, entry.length, entry.offset))
    finally:
        os.close(file)


def _remote(place: Place, entries: Sequence[Entry]) -> Iterator[bytes]:
    waiting: deque[Future[bytes]] = deque()
    with ThreadPoolExecutor(REMOTE_THREADS, thread_name_prefix="read-ahead") as pool:
        try:
            for entry in entries:
                waiting.append(pool.submit(_fetch, place, entry))
                if len(waiting) > REMOTE_AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _fetch(place: Place, entry: Entry) -> bytes:
    try:
        return _whole(place, entry, place.get_range(entry.archive, entry.offset, entry.length))
    except FileNotFoundError as error:
        raise changed(place, entry, "it is gone") from error


def _whole(place: Place, entry: Entry, data: bytes) -> bytes:
    if len(data) != entry.length:
        raise changed(place, entry, f"{len(data)} bytes at {entry.offset} where {entry.length} were listed")
    return data


def changed(place: Place, entry: Entry, found: str) -> TenchError:
    """The error of an entry that is not there as it was listed."""
    return TenchError(
        f"{place.name(entry.archive)}: {found}, for {entry.key}; the source changed while it was read. Restore it, "
        "then run the same command again"
    )
