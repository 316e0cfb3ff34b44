"""The schema of the store and its history: numbered revisions in `versions/`, each made once on every store.

A change of `tables.py` goes with a new revision, written by hand or drawn by `alembic revision --autogenerate`, and
with its number in `NEWEST`; tests compare the two. Alembic takes a second to import: a store that is up to date is
opened without it.
"""

import threading
from pathlib import Path

import sqlalchemy as sa

from ingest.errors import RefusedError

NEWEST = "0003"
FIRST = "0001"
"""The schema of the stores that were made before there were revisions."""
ADVISORY_LOCK = 7_236_942_114
_one_at_a_time = threading.Lock()
"""Alembic keeps the migration at work in globals."""


def migrate(connection: sa.Connection) -> None:
    """Bring a store to the newest schema within the connection's transaction, which has to be one that writes.

    Raises RefusedError if a newer Tench wrote the store.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(ADVISORY_LOCK)))
    found = revision(connection)
    if found == NEWEST:
        return
    if found is not None and found > NEWEST:
        raise RefusedError(
            f"the store was written by a newer Tench (schema {int(found)}, this one knows {int(NEWEST)}); update Tench, "
            "or give another --home"
        )
    _upgrade(connection, is_unnumbered=found is None and sa.inspect(connection).has_table("jobs"))


def revision(connection: sa.Connection) -> str | None:
    """The number of the store's schema, None if it has none."""
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()


def _upgrade(connection: sa.Connection, is_unnumbered: bool) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    with _one_at_a_time:
        if is_unnumbered:
            command.stamp(config, FIRST)
        command.upgrade(config, "head")
