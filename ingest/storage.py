"""One door to every place where bytes lie: local folders, s3://, gs://, az://, and http(s):// for reading.

A `Place` is a root (a dataset, a source, a run folder); paths inside it are relative and use `/`. A put is
create-only unless it says `replace`: it appears whole or not at all, and the second writer of a path is told.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import obstore
from obstore.exceptions import AlreadyExistsError
from obstore.store import LocalStore, from_url

from ingest.errors import RefusedError

REMOTE_SCHEMES = ("s3://", "gs://", "az://", "http://", "https://")
STAGED = re.compile(r"#\d+$")
"""How the local store names a file that is not whole yet; its own listing leaves them out as well."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file in a place: its path relative to the root and its size in bytes."""

    path: str
    size: int


class Place:
    """A root folder, bucket prefix or web folder. Picklable: actors open it again on their own node."""

    def __init__(self, uri: str | os.PathLike[str]) -> None:
        text = os.fspath(uri)
        if text.startswith("file://"):
            text = text.removeprefix("file://")
        if "://" in text and not text.startswith(REMOTE_SCHEMES):
            scheme = text.split("://", 1)[0]
            known = ", ".join(("a local path", *REMOTE_SCHEMES))
            raise RefusedError(f"{text}: unknown kind of place {scheme}://; expected {known}")
        self.is_local = "://" not in text
        self.uri = str(Path(text).expanduser().absolute()) if self.is_local else text.rstrip("/")

    def __reduce__(self) -> tuple[type["Place"], tuple[str]]:
        return Place, (self.uri,)

    def __repr__(self) -> str:
        return f"Place({self.uri!r})"

    @cached_property
    def _store(self) -> Any:
        if self.is_local:
            return LocalStore(self.uri, mkdir=True)
        return from_url(self.uri)

    def local_path(self, path: str = "") -> Path:
        """Where a file lies on this machine's disk. Raises RefusedError for a remote place."""
        if not self.is_local:
            raise RefusedError(f"{self.uri}: this step needs a folder on this machine, not a remote place")
        return Path(self.uri, path) if path else Path(self.uri)

    def inside(self, folder: str) -> "Place":
        """A folder of this place, as a place."""
        return Place(f"{self.uri}/{folder}")

    def name(self, path: str) -> str:
        """The full name of a file, for messages."""
        return f"{self.uri}/{path}" if path else self.uri

    def get(self, path: str) -> bytes:
        """The whole file. Raises FileNotFoundError."""
        if self.is_local:
            return Path(self.uri, path).read_bytes()
        return bytes(obstore.get(self._store, path).bytes())

    def get_range(self, path: str, start: int, length: int) -> bytes:
        """Bytes [start, start + length) of a file; fewer if the file ends before. Raises FileNotFoundError."""
        if self.is_local:
            with open(Path(self.uri, path), "rb", buffering=0) as file:
                return os.pread(file.fileno(), length, start)
        return bytes(obstore.get_range(self._store, path, start=start, length=length)) if length else b""

    def exists(self, path: str) -> bool:
        """True if the file is there."""
        return self.size(path) is not None

    def size(self, path: str) -> int | None:
        """Size in bytes, or None if the file is not there."""
        if self.is_local:
            local = Path(self.uri, path)
            return local.stat().st_size if local.is_file() else None
        try:
            return int(obstore.head(self._store, path)["size"])
        except FileNotFoundError:
            return None

    def walk(self, folder: str = "") -> Iterator[StoredFile]:
        """All files under a folder, at any depth, sorted by path; unfinished puts do not show."""
        if self.is_local and not Path(self.uri, folder).is_dir():
            return
        prefix = folder.rstrip("/") or None
        found = [f for chunk in obstore.list(self._store, prefix) for f in chunk]
        for file in sorted(found, key=lambda f: f["path"]):
            yield StoredFile(str(file["path"]), int(file["size"]))

    def folders(self, folder: str = "") -> list[str]:
        """Names of the folders directly inside a folder, sorted."""
        if self.is_local:
            base = Path(self.uri, folder)
            return sorted(p.name for p in base.iterdir() if p.is_dir()) if base.is_dir() else []
        prefix = f"{folder.rstrip('/')}/" if folder else None
        found = obstore.list_with_delimiter(self._store, prefix)["common_prefixes"]
        return sorted(p.rstrip("/").rsplit("/", 1)[-1] for p in found)

    def files(self, folder: str = "") -> list[StoredFile]:
        """Files directly inside a folder (not below it), sorted by path; unfinished puts do not show."""
        if self.is_local:
            base = Path(self.uri, folder)
            paths = base.iterdir() if base.is_dir() else ()
            inside = sorted(p for p in paths if p.is_file() and not STAGED.search(p.name))
            return [StoredFile(str(p.relative_to(self.uri)), p.stat().st_size) for p in inside]
        prefix = f"{folder.rstrip('/')}/" if folder else None
        found = obstore.list_with_delimiter(self._store, prefix)["objects"]
        return sorted((StoredFile(str(f["path"]), int(f["size"])) for f in found), key=lambda f: f.path)

    def put_new(self, path: str, data: bytes | memoryview) -> bool:
        """Create a file; False, with nothing changed, if the path was taken. Never leaves half a file."""
        try:
            obstore.put(self._store, path, bytes(data), mode="create")
        except AlreadyExistsError:
            return False
        if self.is_local:
            _sync(Path(self.uri, path))
        return True

    def replace(self, path: str, data: bytes) -> None:
        """Write a file whole, over an older one if there is one."""
        obstore.put(self._store, path, data, mode="overwrite")

    def delete(self, path: str) -> None:
        """Remove a file; it is no error if it is gone already."""
        if self.is_local:
            Path(self.uri, path).unlink(missing_ok=True)
        else:
            obstore.delete(self._store, path)

    def move(self, path: str, new_path: str) -> None:
        """Rename a file inside the place."""
        if self.is_local:
            Path(self.uri, new_path).parent.mkdir(parents=True, exist_ok=True)
        obstore.rename(self._store, path, new_path)


def _sync(path: Path) -> None:
    """Make a file and its name in the folder survive a power loss."""
    for name, flags in ((path, os.O_RDONLY), (path.parent, os.O_RDONLY | os.O_DIRECTORY)):
        descriptor = os.open(name, flags)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
