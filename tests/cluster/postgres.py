"""A real PostgreSQL for the session, from Debian's package, on loopback; and stores in either database."""

import os
import secrets
import shutil
import signal
import socket
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest

HOW_TO_GET_IT = "no PostgreSQL here: sudo apt-get install -y --no-install-recommends postgresql"
PASSWORD = "geheim-4711"
FAST = ("fsync=off", "full_page_writes=off")
"""Safe as long as the machine itself does not fail. With synchronous_commit=off a killed server would forget jobs."""


@dataclass(frozen=True)
class StorePlace:
    """Where a store lies, and what is in it as the database itself tells it."""

    place: str

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """The rows that a query gives, or that a statement leaves: none."""
        if "://" in self.place:
            with psycopg.connect(self.place) as server:
                cursor = server.execute(query.encode())
                return cursor.fetchall() if cursor.description else []
        with sqlite3.connect(self.place) as file:
            return file.execute(query).fetchall()


@dataclass
class Postgres:
    """A server: databases in it, and how it is stopped and started again."""

    folder: Path
    port: int
    binaries: Path
    names: list[str] = field(default_factory=list)

    def new(self) -> StorePlace:
        """An empty database of its own."""
        self.names.append(name := f"tench_{secrets.token_hex(4)}")
        with psycopg.connect(self.url("postgres"), autocommit=True) as server:
            server.execute(f"CREATE DATABASE {name}".encode())
        return StorePlace(self.url(name))

    def url(self, database: str) -> str:
        return f"postgresql://tench:{PASSWORD}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        options = [
            f"-p {self.port}", "-c listen_addresses=127.0.0.1", f"-c unix_socket_directories={self.folder}",
            *(f"-c {setting}" for setting in FAST),
        ]  # fmt: skip
        self._run("pg_ctl", "-D", "data", "-l", "log", "-w", "-o", " ".join(options), "start")

    def stop(self) -> None:
        """End it at once, as a crash would; its process is told by its pid."""
        pid = int((self.folder / "data" / "postmaster.pid").read_text().split()[0])
        os.kill(pid, signal.SIGQUIT)
        deadline = time.monotonic() + 30
        while Path(f"/proc/{pid}").exists():
            assert time.monotonic() < deadline, f"PostgreSQL (pid {pid}) does not end"
            time.sleep(0.02)

    def make(self) -> None:
        """Its files, with a password for whoever comes by TCP."""
        words = self.folder / "password"
        words.write_text(PASSWORD)
        self._run(
            "initdb", "-D", "data", "-U", "tench", "--pwfile=password", "--auth-host=scram-sha-256",
            "--auth-local=reject", "-N", "--no-locale", "-E", "UTF8",
        )  # fmt: skip

    def _run(self, program: str, *arguments: str) -> None:
        command = [*_as_another_user(), str(self.binaries / program), *arguments]
        ended = subprocess.run(
            command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=(self.folder / "out").open("ab"),
            stderr=subprocess.STDOUT, timeout=60, check=False,
        )  # fmt: skip
        if ended.returncode:
            pytest.fail(f"{program} failed:\n{(self.folder / 'out').read_text()[-2000:]}")


@contextmanager
def postgres_server() -> Iterator[Postgres]:
    """A server at work; nothing of it is left afterwards. Skips the test without Debian's package."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if not found:
        pytest.skip(HOW_TO_GET_IT)
    # Directly under /tmp: another user has to reach it, and the names of sockets have to be short.
    folder = Path(tempfile.mkdtemp(prefix="tench-postgres-", dir="/tmp"))
    if _as_another_user():
        shutil.chown(folder, "postgres", "postgres")
    server = Postgres(folder, _free_port(), found[-1].parent)
    try:
        server.make()
        server.start()
        yield server
    finally:
        if (folder / "data" / "postmaster.pid").exists():
            server.stop()
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One server for the session."""
    with postgres_server() as server:
        yield server


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def store_place(request: pytest.FixtureRequest, tmp_path: Path) -> StorePlace:
    """An empty place for a store: a file of SQLite, or a database of PostgreSQL."""
    if request.param == "sqlite":
        return StorePlace(str(tmp_path / "store.sqlite"))
    server: Postgres = request.getfixturevalue("postgres")
    return server.new()


def _as_another_user() -> list[str]:
    """PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return []
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]


def _free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])
