"""One watcher at a time over all processes that share a store: a lock that ends with whoever held it.

In SQLite it is a lock on a file beside the store, which the system gives up when the process ends; in PostgreSQL a lock
of a session, which ends with the process, its connection or the server.
"""

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

ADVISORY_LOCK = 7_236_942_113

IsMine = Callable[[], bool]
"""Whether the turn is ours now: who does not get it at first never has it, and who has it may lose it."""


@contextmanager
def turn_by_file(path: Path) -> Iterator[IsMine]:
    """Try to get the turn until the end of the block."""
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_ours = True
        except BlockingIOError:
            is_ours = False
        yield lambda: is_ours


@contextmanager
def turn_by_session(engine: sa.Engine) -> Iterator[IsMine]:
    """Try to get the turn until the end of the block, or until PostgreSQL is restarted."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        is_ours = bool(connection.execute(sa.select(sa.func.pg_try_advisory_lock(ADVISORY_LOCK))).scalar())

        def is_still_ours() -> bool:
            nonlocal is_ours
            is_ours = is_ours and answers(connection)
            return is_ours

        try:
            yield is_still_ours
        finally:
            connection.invalidate()  # Ends the session: back in the pool, it would keep the lock.


def answers(connection: sa.Connection) -> bool:
    """Whether a query gets through on a connection."""
    try:
        return connection.execute(sa.text("SELECT 1")).scalar() == 1
    except sa.exc.SQLAlchemyError:
        return False
