"""Who may ask and for what: tokens, hosts, origins, roots."""

import fcntl
import hashlib
import ipaddress
import json
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote

from ingest.confined import lies_in
from ingest.errors import RefusedError, UsageError
from ingest.storage import REMOTE_SCHEMES, WEB_SCHEMES, Place

RIGHTS = ("read", "submit")
WEB_HOST = re.compile(r"https?://([A-Za-z0-9.-]+(?::[0-9]+)?)(?:/[^\\@]*)?")
"""Host and port of an address that every reader of addresses reads alike: no user, no backslash, no other scheme."""


class Tokens:
    """Named tokens in a file that keeps only their hashes. Read anew at each check: a revoked one stops at once."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, name: str, right: str) -> str:
        """A new token, told only here. Raises UsageError for an unknown right or a name that is taken."""
        if right not in RIGHTS:
            raise UsageError(f"--right {right}: expected {' or '.join(RIGHTS)}")
        with self._alone():
            records = self._read()
            if any(r["name"] == name for r in records):
                raise UsageError(f"token {name}: there is one by this name; revoke it first, or take another name")
            token = f"tench_{secrets.token_urlsafe(32)}"
            self._write([*records, {"name": name, "right": right, "sha256": _hash(token)}])
        return token

    def listed(self) -> list[tuple[str, str]]:
        """(name, right) of every token."""
        return [(r["name"], r["right"]) for r in self._read()]

    def revoke(self, name: str) -> None:
        """Remove a token. Raises UsageError if there is none by this name."""
        with self._alone():
            records = self._read()
            rest = [r for r in records if r["name"] != name]
            if len(rest) == len(records):
                raise UsageError(f"token {name}: there is none by this name; `tench token list` shows them")
            self._write(rest)

    def check(self, token: str) -> tuple[str, str] | None:
        """(name, right) of a valid token, else None. Compares in constant time."""
        wanted = _hash(token)
        found = None
        for record in self._read():
            if secrets.compare_digest(record["sha256"], wanted):
                found = (record["name"], record["right"])
        return found

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the file for a change: of two at once, one would be lost."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path.with_name(f".{self.path.name}.lock"), "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _read(self) -> list[dict[str, str]]:
        try:
            records: list[dict[str, str]] = json.loads(self.path.read_text())["tokens"]
        except FileNotFoundError:
            return []
        except (ValueError, KeyError, TypeError) as error:
            raise RefusedError(
                f"{self.path}: not a token file ({error}); restore it, or remove it and add tokens anew"
            ) from error
        return records

    def _write(self, records: list[dict[str, str]]) -> None:
        staged = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        staged.touch(mode=0o600)
        staged.write_text(json.dumps({"format_version": 1, "tokens": records}, indent=1))
        staged.replace(self.path)


class Roots:
    """Folders and buckets that jobs may read from and write to, and web servers (HOST or HOST:PORT) of sources."""

    def __init__(self, roots: Sequence[str], web_hosts: Sequence[str] = ()) -> None:
        self.roots = [Place(root).uri for root in roots]
        self.web_hosts = list(web_hosts)

    def refuse_outside(self, uri: str, field: str) -> None:
        """Raise RefusedError naming the field if a place is not inside a root: links are followed first."""
        if uri.startswith(WEB_SCHEMES):
            self._refuse_web(uri, field)
            return
        place = Place(uri)
        if not any(_inside(place.uri, root) for root in self.roots):
            raise RefusedError(f"{field}: {place.uri}: lies outside of the service's roots ({', '.join(self.roots)})")

    def _refuse_web(self, uri: str, field: str) -> None:
        """The name is compared as it is written; a name and password in an address would end up in the job's record."""
        if field != "source" or not self.web_hosts:
            raise RefusedError(
                f"{field}: {uri}: web sources are not allowed by this service (tench serve --allow-source)"
            )
        host = WEB_HOST.fullmatch(uri)
        if host is None or host[1].lower() not in self.web_hosts:
            raise RefusedError(f"{field}: {uri}: its server is not one of those allowed ({', '.join(self.web_hosts)})")


def is_loopback(host: str) -> bool:
    """Whether an address can only be reached from this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def host_allowed(header: str, served_host: str, has_tokens: bool) -> bool:
    """Whether a Host header names this service. On loopback only loopback names do: a page elsewhere that points its
    own name at 127.0.0.1 is turned away."""
    name = header.rsplit(":", 1)[0].strip("[]") if not header.endswith("]") else header.strip("[]")
    if is_loopback(name) or name == served_host:
        return True
    return has_tokens and not is_loopback(served_host)


def _inside(uri: str, root: str) -> bool:
    if uri.startswith(REMOTE_SCHEMES) or root.startswith(REMOTE_SCHEMES):
        parts, base_parts = uri.split("/"), root.split("/")
        # An object store reads `%2e%2e` as `..`.
        return ".." not in unquote(uri).split("/") and parts[: len(base_parts)] == base_parts
    return lies_in(os.path.realpath(uri), os.path.realpath(root))


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
