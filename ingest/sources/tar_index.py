"""Where the members of a tar archive lie, without unpacking it: only the headers are read.

A header that says all there is to say in its 512 bytes is read here. Whatever is unusual about one (long names,
extended headers, links, damage, the end of the file) is left to Python's tarfile, from that header to the end.
"""

import tarfile
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import NamedTuple

from ingest.errors import RefusedError
from ingest.sources.region import Region
from ingest.storage import Place

BLOCK = 512
END_MARK = bytes(BLOCK)
MAX_CONTENT_BYTES = 1024
REMOTE_THREADS, REMOTE_AHEAD = 16, 32


class TarMember(NamedTuple):
    """A file in an archive: its name as written and where its bytes lie in the outermost file."""

    name: str
    offset: int
    length: int
    content: bytes | None = None
    """Its bytes, where they were asked for and are few."""


def tar_members(
    place: Place, path: str, start: int = 0, length: int | None = None, contents_of: str | None = None
) -> Iterator[TarMember]:
    """Regular files of the archive at [start, start + length) of a file (the whole file unless told).

    Names that end in `contents_of` come with their bytes, if these are at most `MAX_CONTENT_BYTES`. Folders and
    hidden files (macOS puts `._name` beside `name`) are passed over. Raises RefusedError for an
    archive that is cut, damaged or none, and for links, devices and ways out, which no ImageNet archive holds.
    """
    if length is None:
        if (size := place.size(path)) is None:
            raise RefusedError(f"{place.name(path)}: no such archive")
        length = size - start
    if length == 0:
        return
    with Region(place, path, start, length) as region:
        try:
            for name, offset, size in _files(region):
                if name.rsplit("/", 1)[-1].startswith("."):
                    continue
                if name.startswith("/") or ".." in name.split("/"):
                    raise _strange(region, name, "leads out of the archive")
                wanted = contents_of is not None and name.endswith(contents_of) and size <= MAX_CONTENT_BYTES
                yield TarMember(name, start + offset, size, region.read_at(offset, size) if wanted else None)
        except tarfile.TarError as error:
            raise RefusedError(
                f"{place.name(path)}: not a whole tar archive ({error}); compare its size and MD5 with those "
                "published, and fetch it again"
            ) from error


def nested_members(
    place: Place, tars: Iterable[tuple[str, TarMember]], contents_of: str | None = None
) -> Generator[tuple[str, TarMember, Iterable[TarMember]], None, None]:
    """The members of many archives, each a (file, part of it), in the order given.

    At a remote place, where each header costs a round trip, `REMOTE_THREADS` archives are read side by side and
    the lists of at most `REMOTE_AHEAD` wait; on a disk that seeks, and by one processor, one after the other.
    """
    if place.is_local:
        yield from ((path, tar, tar_members(place, path, tar.offset, tar.length, contents_of)) for path, tar in tars)
        return
    remaining = iter(tars)
    waiting: deque[tuple[str, TarMember, Future[list[TarMember]]]] = deque()
    with ThreadPoolExecutor(REMOTE_THREADS, thread_name_prefix="index") as pool:

        def submit(number: int) -> None:
            for path, tar in islice(remaining, number):
                waiting.append((path, tar, pool.submit(_listed, place, path, tar, contents_of)))

        try:
            submit(REMOTE_AHEAD)
            while waiting:
                path, tar, members = waiting.popleft()
                yield path, tar, members.result()
                submit(1)
        finally:
            for _, _, future in waiting:
                future.cancel()


def _listed(place: Place, path: str, tar: TarMember, contents_of: str | None) -> list[TarMember]:
    return list(tar_members(place, path, tar.offset, tar.length, contents_of))


def _files(region: Region) -> Iterator[tuple[str, int, int]]:
    """(name, offset of its bytes, size) of every file. Raises TarError for an archive that is cut or damaged."""
    at = 0
    while (header := region.read_at(at, BLOCK)) != END_MARK:
        if len(header) < BLOCK:
            raise tarfile.ReadError(f"no end mark at byte {region.start + at}, where it ends")
        if (file := _plain(header)) is None:
            yield from _files_by_tarfile(region, at)
            return
        name, size = file
        data, at = at + BLOCK, at + BLOCK + -(-size // BLOCK) * BLOCK
        _refuse_beyond(region, data + size)
        yield name, data, size


def _plain(header: bytes) -> tuple[str, int] | None:
    """Name and size, if the header is whole and says nothing but that here is a file; else None."""
    name, size, checksum = header[:100].rstrip(b"\0"), header[124:136].strip(b" \0"), header[148:156].strip(b" \0")
    if header[156:157] not in (b"0", b"\0") or name.endswith(b"/") or not (size.isdigit() and checksum.isdigit()):
        return None
    prefix = header[345:500].rstrip(b"\0")
    whole = b"%b/%b" % (prefix, name) if prefix else name
    try:
        # The checksum counts its own eight bytes as spaces.
        if int(checksum, 8) != sum(header) - sum(header[148:156]) + 8 * 0x20 or b"\0" in whole:
            return None
        return whole.decode(), int(size, 8)
    except ValueError:
        return None


def _files_by_tarfile(region: Region, start: int) -> Iterator[tuple[str, int, int]]:
    """As `_files`, from the header at `start` to the end."""
    region.seek(start)
    with tarfile.open(fileobj=region, mode="r:") as archive:
        while (member := archive.next()) is not None:
            archive.members = []  # type: ignore[attr-defined]
            if member.isdir():
                continue
            if not member.isreg() or member.issparse():
                raise _strange(region, member.name, "is a link or a device, or a file with holes")
            _refuse_beyond(region, member.offset_data + member.size)
            yield member.name, member.offset_data, member.size
        if region.read_at(archive.offset, BLOCK) != END_MARK:
            # tarfile takes a damaged header, or the end of the file, for the end of the archive.
            raise tarfile.ReadError(f"neither a header nor the end mark at byte {region.start + archive.offset}")


def _strange(region: Region, name: str, why: str) -> RefusedError:
    """What no ImageNet archive holds."""
    return RefusedError(
        f"{region.place.name(region.path)}: member {name!r} {why}; expected only files. "
        "Fetch the archive again from where it was published"
    )


def _refuse_beyond(region: Region, end: int) -> None:
    """Raises ReadError if bytes up to `end` are spoken of, but the range ends before."""
    if end > region.length:
        raise tarfile.ReadError(f"it ends at byte {region.start + region.length}, {end - region.length} too early")
