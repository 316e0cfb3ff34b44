"""One door to every place where bytes lie: local folders, s3://, gs://, az://, and http(s):// for reading.

A `Place` is a root (a dataset, a source, a run folder); paths inside it are relative and use `/`. A put is
create-only unless it says `replace`: it appears whole or not at all, and the second writer of a path is told.

A request to a remote place that fails or times out is tried again up to `MAX_RETRIES` times within `RETRY_S`
seconds, waiting longer each time (obstore's own retries). A body that breaks off is taken up where it broke, as
part of the same retries, if the server gives its files tags; if not, the request is made again, `BODY_ATTEMPTS`
times in all.
"""

import errno
import os
import posixpath
import re
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, GenericError, NotSupportedError
from obstore.store import HTTPStore, LocalStore, from_url

from ingest.confined import refuse_astray, refuse_links_astray
from ingest.errors import RefusedError, TenchError
from ingest.words import first_line

WEB_SCHEMES = ("http://", "https://")
REMOTE_SCHEMES = ("s3://", "gs://", "az://", *WEB_SCHEMES)
MAX_RETRIES, RETRY_S = 10, 180
BODY_ATTEMPTS = 5
STAY_ON_HOST = "TENCH_STAY_ON_HOST"
"""Set in the environment: a web place is asked of its own host alone. The client follows redirects and cannot be told
not to; so all but that host is then to be reached through a proxy that is not there."""
NOWHERE = "http://127.0.0.1:9"
STAGED = re.compile(r"#\d+$")
"""How the local store names a file that is not whole yet; its own listing leaves them out as well."""
REMEDIES = {
    errno.ENOSPC: "free some space on that disk",
    errno.EDQUOT: "free some of this user's space there, or have the quota raised",
    errno.EROFS: "mount that disk writable, or choose another folder",
    errno.EACCES: "let this user write there, or choose another folder",
    errno.EPERM: "let this user write there, or choose another folder",
}
OS_ERROR = re.compile(r"\(os error (\d+)\)")
"""How obstore names the number of an error that it has from the system."""


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
        self.can_list = not text.startswith(WEB_SCHEMES)
        """False for a web server: it names no files, and takes none."""

    def __reduce__(self) -> tuple[type["Place"], tuple[str]]:
        return Place, (self.uri,)

    def __repr__(self) -> str:
        return f"Place({self.uri!r})"

    @cached_property
    def _store(self) -> Any:
        if self.is_local:
            return LocalStore(self.uri, mkdir=True)
        retries: Any = {"max_retries": MAX_RETRIES, "retry_timeout": timedelta(seconds=RETRY_S)}
        if self.can_list:
            return from_url(self.uri, retry_config=retries)
        options: Any = {"allow_http": self.uri.startswith("http://")}
        if os.environ.get(STAY_ON_HOST):
            options |= {"proxy_url": NOWHERE, "proxy_excludes": urlsplit(self.uri).hostname}
        return HTTPStore.from_url(self.uri, retry_config=retries, client_options=options)

    def local_path(self, path: str = "") -> Path:
        """Where a file lies on this machine's disk. Raises RefusedError for a remote place, or a link that leads astray."""
        if not self.is_local:
            raise RefusedError(f"{self.uri}: this step needs a folder on this machine, not a remote place")
        refuse_astray(self.uri, path)
        return Path(self.uri, path) if path else Path(self.uri)

    def inside(self, folder: str) -> "Place":
        """A folder of this place, as a place."""
        return Place(f"{self.uri}/{folder}")

    def name(self, path: str) -> str:
        """The full name of a file, for messages."""
        return f"{self.uri}/{path}" if path else self.uri

    def get(self, path: str) -> bytes:
        """The whole file. Raises FileNotFoundError, TenchError (see `_fetch`)."""
        if self.is_local:
            return self.local_path(path).read_bytes()
        return self._fetch(path, None)

    def get_range(self, path: str, start: int, length: int) -> bytes:
        """Bytes [start, start + length) of a file; fewer if the file ends before.

        Raises FileNotFoundError, TenchError (see `_fetch`), RefusedError (the server gives no parts of files).
        """
        if self.is_local:
            with open(self.local_path(path), "rb", buffering=0) as file:
                return os.pread(file.fileno(), length, start)
        return self._fetch(path, {"range": (start, start + length)}) if length else b""

    def _fetch(self, path: str, options: Any) -> bytes:
        """The body of one request. Raises TenchError if it breaks off again and again."""
        attempt = 0
        while True:
            try:
                answer = obstore.get(self._store, path, options=options)
            except NotSupportedError as error:
                raise RefusedError(
                    f"{self.name(path)}: asked for a part of it, this server sends all of it (it knows no ranges); use "
                    "another server, or fetch the files and give their folder"
                ) from error
            try:
                return bytes(answer.bytes())
            except GenericError as error:
                attempt += 1
                if attempt == BODY_ATTEMPTS:
                    raise TenchError(
                        f"{self.name(path)}: broke off {BODY_ATTEMPTS} times ({first_line(error)}); mend the "
                        "connection, then run the same command again"
                    ) from error

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
        self._refuse_web()
        if self.is_local and not Path(self.uri, folder).is_dir():
            return
        prefix = folder.rstrip("/") or None
        found = [f for chunk in obstore.list(self._store, prefix) for f in chunk]
        if self.is_local:
            refuse_links_astray(self.uri, (str(file["path"]) for file in found))
        for file in sorted(found, key=lambda f: f["path"]):
            yield StoredFile(str(file["path"]), int(file["size"]))

    def folders(self, folder: str = "") -> list[str]:
        """Names of the folders directly inside a folder, sorted."""
        self._refuse_web()
        if self.is_local:
            base = Path(self.uri, folder)
            return sorted(p.name for p in base.iterdir() if p.is_dir()) if base.is_dir() else []
        prefix = f"{folder.rstrip('/')}/" if folder else None
        found = obstore.list_with_delimiter(self._store, prefix)["common_prefixes"]
        return sorted(p.rstrip("/").rsplit("/", 1)[-1] for p in found)

    def files(self, folder: str = "") -> list[StoredFile]:
        """Files directly inside a folder (not below it), sorted by path; unfinished puts do not show."""
        self._refuse_web()
        if self.is_local:
            base = Path(self.uri, folder)
            paths = base.iterdir() if base.is_dir() else ()
            inside = sorted(p for p in paths if p.is_file() and not STAGED.search(p.name))
            refuse_links_astray(self.uri, (str(p.relative_to(self.uri)) for p in inside))
            return [StoredFile(str(p.relative_to(self.uri)), p.stat().st_size) for p in inside]
        prefix = f"{folder.rstrip('/')}/" if folder else None
        found = obstore.list_with_delimiter(self._store, prefix)["objects"]
        return sorted((StoredFile(str(f["path"]), int(f["size"])) for f in found), key=lambda f: f.path)

    def put_new(self, path: str, data: bytes | memoryview | Sequence[memoryview]) -> bool:
        """Create a file, of one piece or several; False, with nothing changed, if the path was taken.

        Never leaves half a file. Pieces are views, which are written from where they lie.

        Raises TenchError if the place does not take it: a full disk, a read-only one, no right to write.
        """
        self._refuse_web()
        with self._writing(path):
            try:
                obstore.put(self._store, path, data, mode="create")
            except AlreadyExistsError:
                return False
            if self.is_local:
                _sync(Path(self.uri, path))
        return True

    def replace(self, path: str, data: bytes) -> None:
        """Write a file whole, over an older one if there is one. Raises TenchError as `put_new` does."""
        self._refuse_web()
        with self._writing(path):
            obstore.put(self._store, path, data, mode="overwrite")

    def delete(self, path: str) -> None:
        """Remove a file; it is no error if it is gone already."""
        self._refuse_web()
        if self.is_local:
            refuse_astray(self.uri, posixpath.dirname(path))
            Path(self.uri, path).unlink(missing_ok=True)
        else:
            obstore.delete(self._store, path)

    def move(self, path: str, new_path: str) -> None:
        """Rename a file inside the place."""
        self._refuse_web()
        if self.is_local:
            Path(self.uri, new_path).parent.mkdir(parents=True, exist_ok=True)
        obstore.rename(self._store, path, new_path)

    @contextmanager
    def _writing(self, path: str) -> Iterator[None]:
        """Say in our words what a place answers that does not take a file."""
        if self.is_local:
            refuse_astray(self.uri, posixpath.dirname(path))
        try:
            yield
        except (OSError, BaseError) as error:
            number = getattr(error, "errno", None) or next(map(int, OS_ERROR.findall(str(error))), 0)
            reason = os.strerror(number) if number else first_line(error)
            remedy = REMEDIES.get(number, "mend the cause")
            raise TenchError(
                f"{self.name(path)}: cannot be written on {socket.gethostname()} ({reason}); what is finished is kept. "
                f"{remedy[0].upper()}{remedy[1:]}, then run the same command again"
            ) from error

    def _refuse_web(self) -> None:
        """Raises RefusedError for what no web server does."""
        if not self.can_list:
            raise RefusedError(
                f"{self.uri}: a web server is read only and lists nothing: it can be a source of archives, not of "
                "folders, and not the place of a dataset; give a local folder or a bucket"
            )


def _sync(path: Path) -> None:
    """Make a file and its name in the folder survive a power loss."""
    for name, flags in ((path, os.O_RDONLY), (path.parent, os.O_RDONLY | os.O_DIRECTORY)):
        descriptor = os.open(name, flags)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def split_file(uri: str) -> tuple[Place, str]:
    """The folder of a single file and its name there."""
    folder, name = posixpath.split(uri)
    return Place(folder or "."), name


def writable_file(uri: str) -> tuple[Place, str]:
    """As `split_file`, for a file to write. Raises RefusedError now for what would only fail when it is written."""
    place, name = split_file(uri)
    if not place.can_list:
        raise RefusedError(f"{uri}: a web server takes no files; give a local file or one in a bucket")
    if not name or (place.is_local and place.local_path(name).is_dir()):
        raise RefusedError(f"{uri}: is a folder; give the name of a file")
    return place, name
