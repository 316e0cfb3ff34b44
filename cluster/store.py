"""What the service remembers: jobs, their moves, keys of requests. SQLite in a file, or PostgreSQL by URL.

The store knows jobs and their states; truth about progress is in the run folders, truth about processes is Ray's.
Handlers of requests add jobs and wishes (stop, resume); the watcher alone moves states, by compare-and-set on the
row's version. A wish counts as a new version too, so no move overtakes it unseen.
"""

import json
import time
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DatabaseError, IntegrityError

from cluster import migrations, tables
from cluster.engines import open_engine
from cluster.jobs import ENDED, Job, Move, Needs, State, moved
from cluster.turn import IsMine, turn_by_file, turn_by_session
from ingest.errors import RefusedError


class Superseded(Exception):
    """The job has changed since it was read: read it again and decide anew."""


class KeyTaken(Exception):
    """The idempotency key was used before, with another body."""


@dataclass(frozen=True, slots=True)
class Key:
    """An Idempotency-Key of a caller, and the hash of the body it came with."""

    caller: str
    key: str
    body_sha256: str


class Store:
    """Open it with `Store.open`; usable from any thread."""

    def __init__(self, engine: sa.Engine, lock_file: Path | None) -> None:
        self._engine = engine
        self._writer = engine.execution_options(tench_writes=True)
        self._lock_file = lock_file

    @classmethod
    def open(cls, place: str) -> "Store":
        """A path of an SQLite file, or a URL `postgresql://...`; its schema is brought up to date.

        Raises RefusedError if it cannot be opened, or if a newer Tench wrote it.
        """
        store = cls(open_engine(place), None if "://" in place else Path(f"{place}.watcher"))
        try:
            with store._writer.begin() as connection:
                migrations.migrate(connection)
        except DatabaseError as error:
            store.close()
            words = str(error.orig).split("\n")[0]
            raise RefusedError(f"the store {store._engine.url} cannot be used: {words}") from None  # no password in it
        return store

    def close(self) -> None:
        self._engine.dispose()

    def add(self, job: Job, key: Key | None = None) -> tuple[Job, bool]:
        """Insert a job with its key in one transaction; (job, True), or the earlier job of the key and False.

        Raises KeyTaken if the key came with another body before.
        """
        try:
            with self._writer.begin() as connection:
                if key is not None and (known := _job_of_key(connection, key)) is not None:
                    return known, False
                connection.execute(tables.jobs.insert().values(_to_row(job)))
                if key is not None:
                    connection.execute(tables.keys.insert().values(**asdict(key), job=job.id))
                _note_move(connection, job, "", f"Asked for by {job.asked_by}.", job.asked_by)
        except IntegrityError:
            # Two requests with one key at the same moment: the other one won.
            with self._engine.begin() as connection:
                if key is None or (known := _job_of_key(connection, key)) is None:
                    raise
                return known, False
        return job, True

    def job(self, job_id: str) -> Job | None:
        """One job, None if there is none of this id."""
        with self._engine.begin() as connection:
            return _read_job(connection, job_id)

    def jobs(
        self, limit: int = 100, older_than: str | None = None, state: str | None = None, kind: str | None = None
    ) -> list[Job]:
        """Jobs, newest first; `older_than` is the id of the last job of the page before."""
        table = tables.jobs
        query = sa.select(table).order_by(table.c.created_at.desc(), table.c.id.desc()).limit(limit)
        if older_than is not None:
            mark = sa.select(table.c.created_at).where(table.c.id == older_than).scalar_subquery()
            query = query.where(
                sa.or_(table.c.created_at < mark, sa.and_(table.c.created_at == mark, table.c.id < older_than))
            )
        if state is not None:
            query = query.where(table.c.state == state)
        if kind is not None:
            query = query.where(table.c.kind == kind)
        return self._read(query)

    def open_jobs(self) -> list[Job]:
        """Jobs that the watcher has to look at: not ended, or ended and asked to resume; oldest first."""
        table = tables.jobs
        unfinished = table.c.state.not_in(sorted(ENDED))
        return self._read(
            sa.select(table).where(sa.or_(unfinished, table.c.resume_requested)).order_by(table.c.created_at)
        )

    def counts(self) -> dict[str, int]:
        """Number of jobs in each state that has any."""
        query = sa.select(tables.jobs.c.state, sa.func.count()).group_by(tables.jobs.c.state)
        with self._engine.begin() as connection:
            return {state: int(number) for state, number in connection.execute(query)}

    def counts_by_kind(self) -> dict[tuple[str, str], int]:
        """Number of jobs of each (kind, state) that has any."""
        columns = (tables.jobs.c.kind, tables.jobs.c.state)
        query = sa.select(*columns, sa.func.count()).group_by(*columns)
        with self._engine.begin() as connection:
            return {(kind, state): int(number) for kind, state, number in connection.execute(query)}

    def move(self, job: Job, move: Move, by: str) -> Job:
        """Make a move: the one place where a state changes. Raises Superseded, IllegalMove."""
        after = moved(job, move, time.time())
        with self._writer.begin() as connection:
            _compare_and_set(connection, job, after)
            _note_move(connection, after, job.state, move.reason, by)
        return after

    def wish(self, job: Job, *, by: str, stop: bool = False, resume: bool = False) -> Job:
        """Note that somebody, by the name of a token, wants the job stopped or resumed. Raises Superseded."""
        after = replace(
            job,
            stop_requested=job.stop_requested or stop,
            stop_by=by if stop else job.stop_by,
            resume_requested=job.resume_requested or resume,
            resume_by=by if resume else job.resume_by,
            version=job.version + 1,
        )
        with self._writer.begin() as connection:
            _compare_and_set(connection, job, after)
        return after

    def moves(self, job_id: str) -> list[dict[str, Any]]:
        """The moves of a job, in order: number, state_before, state, at, by, reason."""
        query = sa.select(tables.moves).where(tables.moves.c.job == job_id).order_by(tables.moves.c.number)
        with self._engine.begin() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def write_note(self, name: str, value: dict[str, Any]) -> None:
        """Leave a note of the watcher for the handlers of requests (what Ray looks like now)."""
        row = {"value": json.dumps(value), "at": time.time()}
        with self._writer.begin() as connection:
            changed = connection.execute(tables.notes.update().where(tables.notes.c.name == name).values(**row))
            if changed.rowcount == 0:
                connection.execute(tables.notes.insert().values(name=name, **row))

    def read_note(self, name: str) -> tuple[dict[str, Any], float] | None:
        """A note and when it was written (Unix seconds), None if there is none."""
        query = sa.select(tables.notes.c.value, tables.notes.c.at).where(tables.notes.c.name == name)
        with self._engine.begin() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else (json.loads(row.value), float(row.at))

    def is_usable(self) -> bool:
        """True if a query gets through now: one that reads the file, which `SELECT 1` of SQLite does not."""
        try:
            with self._engine.connect() as connection:
                connection.execute(sa.select(tables.notes.c.name).limit(1)).all()
                return True
        except sa.exc.SQLAlchemyError:
            return False

    def watching(self) -> AbstractContextManager[IsMine]:
        """Try to become the one watcher over all processes that share the store, until the end of the block."""
        return turn_by_session(self._engine) if self._lock_file is None else turn_by_file(self._lock_file)

    def _read(self, query: sa.Select[Any]) -> list[Job]:
        with self._engine.begin() as connection:
            return [_from_row(row) for row in connection.execute(query).mappings()]


def _compare_and_set(connection: sa.Connection, before: Job, after: Job) -> None:
    table = tables.jobs
    query = table.update().where(table.c.id == before.id, table.c.version == before.version)
    if connection.execute(query.values(_to_row(after))).rowcount != 1:
        raise Superseded(before.id)


def _note_move(connection: sa.Connection, job: Job, before: State | str, reason: str, by: str) -> None:
    connection.execute(
        tables.moves.insert().values(
            job=job.id,
            number=job.move,
            state_before=before,
            state=job.state,
            at=job.moved_at,
            by=by,
            reason=_storable(reason),
        )
    )


def _job_of_key(connection: sa.Connection, key: Key) -> Job | None:
    table = tables.keys
    row = connection.execute(sa.select(table).where(table.c.caller == key.caller, table.c.key == key.key)).one_or_none()
    if row is None:
        return None
    if row.body_sha256 != key.body_sha256:
        raise KeyTaken(key.key)
    return _read_job(connection, row.job)


def _read_job(connection: sa.Connection, job_id: str) -> Job | None:
    row = connection.execute(sa.select(tables.jobs).where(tables.jobs.c.id == job_id)).mappings().one_or_none()
    return None if row is None else _from_row(row)


def _to_row(job: Job) -> dict[str, Any]:
    row = {name: getattr(job, name) for name in Job.__dataclass_fields__ if name != "grant"}
    row["error"] = None if job.error is None else _storable(job.error)
    row["settings"] = json.dumps(job.settings)
    row["result"] = None if job.result is None else json.dumps(job.result)
    return row | {f"grant_{name}": value for name, value in asdict(job.grant).items()}


def _storable(words: str) -> str:
    """Words of other programs as a database can hold them: PostgreSQL takes no zero bytes, neither takes half a pair."""
    return words.replace("\x00", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()


def _from_row(row: Any) -> Job:
    values = dict(row)
    grant = Needs(values.pop("grant_cpus"), values.pop("grant_gpus"), int(values.pop("grant_memory")))
    values["settings"] = json.loads(values["settings"])
    values["result"] = None if values["result"] is None else json.loads(values["result"])
    return Job(**values, grant=grant)
