"""Where the members of a tar archive lie, without unpacking it: only the headers are read."""

import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass

from ingest.errors import RefusedError
from ingest.storage import Place

BLOCK = 512


@dataclass(frozen=True, slots=True)
class TarMember:
    """A file in an archive: its name as written and where its bytes lie in the outermost file."""

    name: str
    offset: int
    length: int


def tar_members(place: Place, path: str, start: int = 0, length: int | None = None) -> Iterator[TarMember]:
    """Regular files of the archive at [start, start + length) of a file (the whole file unless told).

    Folders and hidden files (macOS puts `._name` beside `name`) are passed over. Raises RefusedError for an
    archive that is cut, damaged or none, and for links, devices and ways out, which no ImageNet archive holds.
    """
    size = place.size(path)
    if size is None:
        raise RefusedError(f"{place.name(path)}: no such archive")
    region = _Region(place, path, start, size - start if length is None else length)
    if region.length == 0:
        return
    buffered = io.BufferedReader(region, buffer_size=BLOCK if place.is_local else 2**16)
    try:
        with tarfile.open(fileobj=buffered, mode="r:") as archive:
            while (member := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]
                if member.isdir() or member.name.rsplit("/", 1)[-1].startswith("."):
                    continue
                if (why := _strange(member)) is not None:
                    raise RefusedError(
                        f"{place.name(path)}: member {member.name!r} {why}; expected only files. "
                        "Fetch the archive again from image-net.org"
                    )
                yield TarMember(member.name, start + member.offset_data, member.size)
            region.seek(archive.offset)
            if region.read(BLOCK) != bytes(BLOCK):
                # tarfile takes a damaged header, or the end of the file, for the end of the archive.
                raise tarfile.ReadError(f"neither a header nor the end mark at byte {start + archive.offset}")
    except tarfile.TarError as error:
        raise RefusedError(
            f"{place.name(path)}: not a whole tar archive ({error}); compare its size and MD5 with those published, "
            "and fetch it again"
        ) from error


def _strange(member: tarfile.TarInfo) -> str | None:
    """What no ImageNet archive holds."""
    if not member.isreg():
        return "is a link or a device"
    return "leads out of the archive" if member.name.startswith("/") or ".." in member.name.split("/") else None


class _Region(io.RawIOBase):
    """A range of a stored file as a readable, seekable stream."""

    def __init__(self, place: Place, path: str, start: int, length: int) -> None:
        self.place, self.path, self.start, self.length = place, path, start, length
        self._position = 0
        self._file = open(place.local_path(path), "rb", buffering=0) if place.is_local else None  # noqa: SIM115

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        super().close()

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
        wanted = min(len(buffer), self.length - self._position)
        if wanted <= 0:
            return 0
        if self._file is not None:
            self._file.seek(self.start + self._position)
            data = self._file.read(wanted)
        else:
            data = self.place.get_range(self.path, self.start + self._position, wanted)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
