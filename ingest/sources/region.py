"""A range of a stored file as a stream, on a disk or at a remote place."""

import io
import os

from ingest.storage import Place

REMOTE_BUFFER = 2**16
"""Bytes that are fetched at least: many small reads side by side, such as headers, then cost one request."""


class Region(io.RawIOBase):
    """A range of a stored file, read at any place or as a stream."""

    def __init__(self, place: Place, path: str, start: int, length: int) -> None:
        self.place, self.path, self.start, self.length = place, path, start, length
        self._position = 0
        self._file = os.open(place.local_path(path), os.O_RDONLY) if place.is_local else None
        self._fetched, self._fetched_at = b"", 0

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
        super().close()

    def read_at(self, at: int, size: int) -> bytes:
        """Up to `size` bytes from `at` on; fewer only where the range ends."""
        size = min(size, self.length - at)
        if size <= 0:
            return b""
        if self._file is not None:
            return os.pread(self._file, size, self.start + at)
        if not self._fetched_at <= at <= at + size <= self._fetched_at + len(self._fetched):
            ahead = min(max(size, REMOTE_BUFFER), self.length - at)
            self._fetched, self._fetched_at = self.place.get_range(self.path, self.start + at, ahead), at
        return self._fetched[at - self._fetched_at : at - self._fetched_at + size]

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.length}[whence]
        self._position = base + offset
        return self._position

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        data = self.read_at(self._position, len(buffer))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
