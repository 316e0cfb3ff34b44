"""A place becomes an engine of SQLAlchemy: a file of SQLite, or PostgreSQL by URL. No password is ever shown.

A connection whose server was restarted is replaced when it is next taken; one whose server does not answer any more
is given up after `SILENCE_S`.
"""

import json
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from ingest.errors import RefusedError
from ingest.progress import to_json

NOTE = "store.json"
"""HOME/store.json: where the last service of HOME remembered its jobs."""
BUSY_TIMEOUT_S = 30
CONNECT_WITHIN_S, SILENCE_S = 10, 30
POSTGRESQL = ("postgresql", "postgres", "postgresql+psycopg")
CONNECTIONS, MORE_CONNECTIONS = 10, 30
"""Held, and opened besides when all are in use: the service answers from at most 40 threads."""


def open_engine(place: str) -> sa.Engine:
    """A path of an SQLite file, or a URL `postgresql://...`. Raises RefusedError if it cannot be reached."""
    if "://" in place:
        return _open_postgresql(place)
    try:
        Path(place).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RefusedError(
            f"the store {place}: its folder cannot be made ({error.strerror}); give another place"
        ) from None
    return _open_sqlite(place)


def note_place(home: Path, place: str) -> None:
    """Write down where the jobs of a service are remembered, without a password."""
    if "://" in place:
        place = sa.make_url(place).set(password=None).render_as_string()
    (home / NOTE).write_bytes(to_json({"place": place}))


def noted_place(home: Path) -> str | None:
    """What `note_place` wrote; None if no service was at work in HOME. Raises RefusedError for a broken note."""
    try:
        return str(json.loads((home / NOTE).read_text())["place"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError) as error:
        raise RefusedError(f"{home / NOTE}: cannot be read ({error}); --store says where the jobs are") from None


def _open_sqlite(path: str) -> sa.Engine:
    engine = sa.create_engine(
        f"sqlite:///{path}", connect_args={"timeout": BUSY_TIMEOUT_S}, hide_parameters=True,
        pool_size=CONNECTIONS, max_overflow=MORE_CONNECTIONS,
    )  # fmt: skip

    @sa.event.listens_for(engine, "connect")
    def _configure(connection: Any, record: Any) -> None:
        del record
        # SQLAlchemy, not the driver, says when a transaction begins: a writer takes the lock before it reads.
        connection.isolation_level = None
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        writes = connection.get_execution_options().get("tench_writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _open_postgresql(place: str) -> sa.Engine:
    scheme, rest = place.split("://", 1)
    if scheme not in POSTGRESQL:
        raise RefusedError(f"{scheme}://: the store is a file of SQLite or postgresql://; give one of these")
    try:
        url = sa.make_url(f"postgresql+psycopg://{rest}")
    except (sa.exc.ArgumentError, ValueError):
        raise RefusedError(
            f"{scheme}://...: no URL of a database; expected postgresql://USER:PASSWORD@HOST:PORT/NAME, special "
            "characters of the password as %40 and the like"
        ) from None
    try:
        engine = sa.create_engine(
            _patient(url), pool_pre_ping=True, hide_parameters=True,
            pool_size=CONNECTIONS, max_overflow=MORE_CONNECTIONS,
        )  # fmt: skip
        with engine.connect():
            return engine
    except ImportError as error:
        raise RefusedError("a store in PostgreSQL needs the package psycopg: pip install 'psycopg[binary]'") from error
    except sa.exc.DBAPIError as error:
        words = " ".join(str(error.orig).split())
        if url.password:
            words = words.replace(str(url.password), "***")
        raise RefusedError(f"{url.render_as_string(hide_password=True)}: cannot be opened: {words}") from None


def _patient(url: sa.URL) -> sa.URL:
    """The URL with limits of waiting, where it states none: the system's own are hours."""
    limits = {
        "application_name": "tench", "connect_timeout": str(CONNECT_WITHIN_S), "keepalives_idle": str(SILENCE_S),
        "keepalives_interval": "5", "keepalives_count": "3", "tcp_user_timeout": str(1000 * SILENCE_S),
    }  # fmt: skip
    return url.update_query_dict({name: value for name, value in limits.items() if name not in url.query})
