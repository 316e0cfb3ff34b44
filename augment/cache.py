"""Shards of a dataset in an object store to memory maps of files on this machine, which all its processes share.

A shard's file is named by its SHA-256: in `shards/`, or in `staged/` while it is fetched. Every lock is a flock, which
goes away with its process; so the folder must lie on a disk of this machine.

- Whoever fetches a shard locks its staged file. Who wants the same shard waits for that lock, and takes over if the
  first one dies. A staged file that nobody has locked is left over from a process that died.
- Whoever maps a shard shares the lock of its file while the map lives, as a map keeps its descriptor of the file open.
- `lock` is held for moments: while room is made, and while a file that was fetched gets its name.

Before a fetch, shards that nobody has mapped are removed, those mapped longest ago first, until all files, staged ones
included, keep to the limit of whoever fetches.
"""

import fcntl
import hashlib
import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from threading import Event, Thread
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from obstore.exceptions import BaseError

from ingest.errors import DamageError, RefusedError, TenchError
from ingest.manifest import ShardFile
from ingest.storage import REMEDIES, Place

PART_BYTES, PARALLEL = 8 * 2**20, 4  # A fetch holds at most so many parts of a shard in memory.
PAUSE_S = 0.5


class _NoRoom(RefusedError):
    """A shard does not fit beside what is in use."""


class ShardCache:
    """At most `limit_bytes` in `folder`, for any number of threads and processes. Raises TenchError (not writable)."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self._folder, self._limit = folder, limit_bytes
        self._shards, self._staged = folder / "shards", folder / "staged"
        self._closed, self._dropped = Event(), Event()
        self._thread: Thread | None = None
        self._wanted: set[str] = set()  # SHA-256 of what is to be fetched ahead and was not mapped here since.
        with self._writing():
            self._shards.mkdir(parents=True, exist_ok=True)
            self._staged.mkdir(exist_ok=True)
        for *_, path in _files(self._staged):
            _is_removed(path)

    def map(self, place: Place, shard: ShardFile) -> npt.NDArray[np.uint8]:
        """A shard's bytes, uint8 (size,), mapped copy-on-write; fetched before, its SHA-256 checked, if need be.

        The shard is in use until the array and all views of it are gone. A file found in the cache is known by name
        and size and is not hashed again: readers check the checksum of each payload. Raises RefusedError (no room),
        DamageError (gone, or wrong twice), TenchError (disk full, cache closed), and what `Place.get_range` raises.
        """
        while True:
            if file := self._found(shard) or self._fetched(place, shard):
                with file:
                    self._wanted.discard(shard.sha256)
                    return np.asarray(np.memmap(file, np.uint8, "c"))

    def fetch_ahead(self, place: Place, shards: Sequence[ShardFile]) -> None:
        """Fetch shards in the background, in this order, before they are mapped here; returns at once.

        It removes none of them for a later one before it is mapped here; without room it waits. What it fails at is
        tried again, and fails aloud, when mapped. A new call takes the place of what the last one has not begun.
        """
        self._dropped.set()
        self._dropped, self._wanted = Event(), {shard.sha256 for shard in shards}
        arguments = (place, tuple(shards), self._dropped, self._thread)
        # A daemon, so that a forgotten cache cannot keep a program alive.
        self._thread = Thread(target=self._fetch_all, args=arguments, name="tench-cache", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the background work, after the parts that are under way. What was mapped stays valid, and in use."""
        self._closed.set()
        self._dropped.set()
        if self._thread is not None:
            self._thread.join()

    def _fetch_all(self, place: Place, shards: Sequence[ShardFile], dropped: Event, previous: Thread | None) -> None:
        if previous is not None:
            previous.join()
        reached: set[str] = set()
        for shard in shards:
            reached.add(shard.sha256)
            while shard.sha256 in self._wanted and not dropped.is_set() and not self._is_done(place, shard, reached):
                dropped.wait(PAUSE_S)

    def _is_done(self, place: Place, shard: ShardFile, reached: set[str]) -> bool:
        """Fetch a shard ahead. False if there is no room yet."""
        try:
            with self._found(shard) or self._fetched(place, shard, reached) or nullcontext():
                return True
        except (TenchError, OSError, BaseError, RuntimeError) as error:
            # Whoever maps it tries again and is told. RuntimeError: the program ends, and its pools take no more work.
            return not isinstance(error, _NoRoom)

    def _found(self, shard: ShardFile) -> BinaryIO | None:
        """The file of a shard that is there whole, its lock shared, its time of last use set."""
        if not shard.sha256.isalnum():
            raise DamageError(f"{shard.path}: its SHA-256 is {shard.sha256!r} in the manifest, which is none")
        file = _opened(self._shards / shard.sha256, fcntl.LOCK_SH, size=shard.size)
        if file is not None:
            os.utime(file.fileno(), ns=(time.time_ns(),) * 2)
        return file

    def _fetched(self, place: Place, shard: ShardFile, reached: set[str] | None = None) -> BinaryIO | None:
        """The file of a shard that we fetch, its lock shared. None if another was at it: once it is done or dead, or at
        once for a fetch ahead (with `reached`, its list so far)."""
        staged = self._staged / shard.sha256
        file = _opened(staged, fcntl.LOCK_EX | fcntl.LOCK_NB, os.O_CREAT)
        if file is None:
            # Shared, since the other will keep a shared lock as long as it has the shard mapped.
            if reached is None and (waited := _opened(staged, fcntl.LOCK_SH)):
                waited.close()
            return None
        with ExitStack() as unfinished:
            unfinished.enter_context(file)
            unfinished.callback(staged.unlink, missing_ok=True)
            if found := self._found(shard):
                return found
            self._reserve(file, place, shard, reached)
            self._receive(file, place, shard)
            with self._locked():
                os.replace(staged, self._shards / shard.sha256)
                # Here, where nobody removes files: between the old lock and the new one there is none for a moment.
                fcntl.flock(file, fcntl.LOCK_SH)
            unfinished.pop_all()
        return file

    def _reserve(self, file: BinaryIO, place: Place, shard: ShardFile, reached: set[str] | None) -> None:
        """Give a staged file its whole size, once there is room."""
        file.truncate(0)  # What a process that died has left in it.
        # Looks twice, since who finds a shard that it does not map, as the background does, locks it for a moment.
        in_use, num_looks = 0, 2 if shard.size <= self._limit else 0
        while num_looks:
            with self._locked(), self._writing():
                in_use, is_any_under_way = self._make_room(shard.size, (reached or set()) & self._wanted)
                if in_use + shard.size <= self._limit:
                    os.posix_fallocate(file.fileno(), 0, shard.size)
                    return
            if reached is not None:
                break
            num_looks -= not is_any_under_way  # What others fetch may be free to go once it is there.
            time.sleep(PAUSE_S)
        raise _NoRoom(
            f"{place.name(shard.path)}: needs {shard.size:,} bytes in {self._folder} beside {in_use:,} in use, the limit "
            f"of the cache is {self._limit:,}; raise it to {in_use + shard.size:,} at least, or use fewer shards at once"
        )

    def _make_room(self, size: int, spared: set[str]) -> tuple[int, bool]:
        """Remove what must and may go. Returns the bytes that stay, and whether any of them are being fetched."""
        staged = [file for file in _files(self._staged) if not _is_removed(file[2])]
        shards = sorted(_files(self._shards))
        total = sum(size for _, size, _ in staged + shards)
        for _, old_size, path in shards:
            if total + size > self._limit and path.name not in spared and _is_removed(path):
                total -= old_size
        return total, any(size for _, size, _ in staged)

    def _receive(self, file: BinaryIO, place: Place, shard: ShardFile) -> None:
        for _ in range(2):
            if (found := self._arrived(file, place, shard)) == shard.sha256:
                return
        raise DamageError(
            f"{place.name(shard.path)}: fetched twice, found {found}, expected {shard.size:,} bytes with SHA-256 "
            f"{shard.sha256}; `tench verify {place.uri}` lists all damage"
        )

    def _arrived(self, file: BinaryIO, place: Place, shard: ShardFile) -> str:
        """Fetch a shard into a file. Returns its SHA-256, or what is wrong with its size."""
        digest = hashlib.sha256()
        file.seek(0)
        # Only the pool makes requests. They are native code, and Python waits for a pool before it ends.
        with ThreadPoolExecutor(PARALLEL, "tench-cache-part") as pool:
            if (size := pool.submit(place.size, shard.path).result()) != shard.size:
                return "no file" if size is None else f"{size:,} bytes"
            for part in _parts(pool, place, shard):
                if self._closed.is_set():
                    raise TenchError(f"{place.name(shard.path)}: not fetched, since the cache was closed")
                digest.update(part)
                file.write(part)
        file.flush()
        return digest.hexdigest()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with open(self._folder / "lock", "ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = f"{error.strerror}; {REMEDIES.get(error.errno or 0, 'choose another folder')}"
            raise TenchError(f"{self._folder}: cannot be written on {os.uname().nodename} ({reason})") from error


def _parts(pool: ThreadPoolExecutor, place: Place, shard: ShardFile) -> Iterator[bytes]:
    """A shard's bytes in order, the next parts already under way."""
    begun: deque[Future[bytes]] = deque()
    for start in range(0, shard.size, PART_BYTES):
        if len(begun) == PARALLEL:
            yield begun.popleft().result()
        begun.append(pool.submit(place.get_range, shard.path, start, min(PART_BYTES, shard.size - start)))
    while begun:
        yield begun.popleft().result()


def _files(folder: Path) -> Iterator[tuple[int, int, Path]]:
    """Time of last use, size and path of each file. One that goes away meanwhile is left out."""
    for path in folder.iterdir():
        with suppress(FileNotFoundError):
            yield (stat := path.stat()).st_mtime_ns, stat.st_size, path


def _opened(path: Path, lock: int, flags: int = 0, size: int | None = None) -> BinaryIO | None:
    """A file under a lock. None if it is gone, renamed or of another size by then, or locked and we do not wait."""
    try:
        file = os.fdopen(os.open(path, os.O_RDWR | flags, 0o666), "r+b")
    except FileNotFoundError:
        return None
    with suppress(BlockingIOError, FileNotFoundError):
        fcntl.flock(file, lock)
        stat = path.stat()
        if os.path.samestat(stat, os.fstat(file.fileno())) and size in (None, stat.st_size):
            return file
    file.close()
    return None


def _is_removed(path: Path) -> bool:
    """Remove a file, unless somebody has locked it."""
    if file := _opened(path, fcntl.LOCK_EX | fcntl.LOCK_NB):
        path.unlink(missing_ok=True)
        file.close()
    return file is not None
