"""The schema of the store and its history: old stores are taken over, newer ones refused, two services migrate once."""

from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
import sqlalchemy as sa

from cluster import migrations, tables
from cluster.engines import open_engine
from cluster.store import Key, Store
from ingest.errors import RefusedError
from tests.cluster.postgres import StorePlace
from tests.cluster.rows import new_job

# What Tench wrote before the schema had revisions, one statement a line.
BEFORE_REVISIONS = """
CREATE TABLE jobs (id VARCHAR(64) NOT NULL, kind VARCHAR(16) NOT NULL, name VARCHAR(200) NOT NULL, state VARCHAR(16) NOT NULL, settings TEXT NOT NULL, "after" VARCHAR(64), priority INTEGER NOT NULL, asked_by VARCHAR(200) NOT NULL, created_at FLOAT NOT NULL, moved_at FLOAT NOT NULL, started_at FLOAT, ended_at FLOAT, attempt INTEGER NOT NULL, max_attempts INTEGER NOT NULL, stop_requested BOOLEAN NOT NULL, resume_requested BOOLEAN NOT NULL, error TEXT, exit_code INTEGER, result TEXT, grant_cpus INTEGER NOT NULL, grant_gpus INTEGER NOT NULL, grant_memory FLOAT NOT NULL, version INTEGER NOT NULL, move INTEGER NOT NULL, PRIMARY KEY (id))
CREATE TABLE keys (caller VARCHAR(200) NOT NULL, "key" VARCHAR(200) NOT NULL, body_sha256 VARCHAR(64) NOT NULL, job VARCHAR(64) NOT NULL, PRIMARY KEY (caller, "key"), FOREIGN KEY(job) REFERENCES jobs (id))
CREATE TABLE moves (job VARCHAR(64) NOT NULL, number INTEGER NOT NULL, state_before VARCHAR(16) NOT NULL, state VARCHAR(16) NOT NULL, at FLOAT NOT NULL, "by" VARCHAR(200) NOT NULL, reason TEXT NOT NULL, PRIMARY KEY (job, number), FOREIGN KEY(job) REFERENCES jobs (id))
CREATE TABLE notes (name VARCHAR(64) NOT NULL, value TEXT NOT NULL, at FLOAT NOT NULL, PRIMARY KEY (name))
CREATE INDEX ix_jobs_state ON jobs (state)
CREATE INDEX jobs_by_age ON jobs (created_at, id)
INSERT INTO notes VALUES ('schema', '{"version": 1}', 1700000000.5)
INSERT INTO jobs VALUES ('20260102-030405-train-abcdef', 'train', 'größer', 'running', '{"dataset": "/data/gr\\u00f6\\u00dfe"}', NULL, 7, 'ada', 1700000001.25, 1700000003.5, 1700000002.5, NULL, 2, 5, false, false, NULL, NULL, NULL, 4, 1, 8796093022208.0, 3, 3)
INSERT INTO moves VALUES ('20260102-030405-train-abcdef', 0, '', 'queued', 1700000001.25, 'ada', 'Asked for by ada.')
INSERT INTO keys VALUES ('ada', 'k', 'body', '20260102-030405-train-abcdef')
"""  # noqa: E501 - as they stand in such a store


def test_a_store_from_before_revisions_is_taken_over_whole(store_place: StorePlace) -> None:
    for statement in BEFORE_REVISIONS.strip().splitlines():
        as_float53 = statement.replace("FLOAT NOT", "FLOAT(53) NOT").replace("_at FLOAT,", "_at FLOAT(53),")
        store_place.rows(as_float53 if "://" in store_place.place else statement)
    store = Store.open(store_place.place)
    [job] = store.jobs()
    assert (job.id, job.name, job.state, job.settings) == (
        "20260102-030405-train-abcdef", "größer", "running", {"dataset": "/data/größe"},
    )  # fmt: skip
    assert (job.created_at, job.started_at, job.attempt, job.max_attempts, job.version) == (
        1700000001.25, 1700000002.5, 2, 5, 3,
    )  # fmt: skip
    assert (job.grant.cpus, job.grant.gpus, job.grant.memory) == (4, 1, 2**43)
    assert [move["reason"] for move in store.moves(job.id)] == ["Asked for by ada."]
    assert store.add(new_job(), Key("ada", "k", "body")) == (job, False)
    assert store.wish(job, by="ada", stop=True).stop_requested
    assert store_place.rows("SELECT version_num FROM alembic_version") == [(migrations.NEWEST,)]
    store.close()
    again = Store.open(store_place.place)
    assert [found.id for found in again.jobs()] == [job.id]
    again.close()


def test_tables_and_revisions_agree(store_place: StorePlace) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    Store.open(store_place.place).close()
    engine = open_engine(store_place.place)
    with engine.begin() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, tables.metadata) == []
    engine.dispose()


def test_the_newest_revision_is_the_last_in_the_folder_and_each_has_its_number() -> None:
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory(str(Path(migrations.__file__).parent))
    assert scripts.get_current_head() == migrations.NEWEST
    numbers = [script.revision for script in scripts.walk_revisions()][::-1]
    assert numbers == [f"{n + 1:04d}" for n in range(len(numbers))]


def test_a_store_of_a_newer_schema_is_refused_and_left_as_it_is(store_place: StorePlace) -> None:
    store = Store.open(store_place.place)
    job, _ = store.add(new_job())
    store.close()
    store_place.rows("UPDATE alembic_version SET version_num = '0099'")
    with pytest.raises(RefusedError, match=r"newer Tench \(schema 99, this one knows \d+\); update Tench"):
        Store.open(store_place.place)
    assert store_place.rows("SELECT version_num FROM alembic_version") == [("0099",)]
    assert store_place.rows("SELECT id FROM jobs") == [(job.id,)]


def _open_and_add(ready: Barrier, place: str, name: str) -> None:
    ready.wait(60)
    store = Store.open(place)
    store.add(new_job(name))
    store.close()


def test_services_that_start_at_once_migrate_once(store_place: StorePlace) -> None:
    names = [f"job-{n}" for n in range(4)]
    spawn = get_context("spawn")
    ready = spawn.Barrier(len(names))
    services = [spawn.Process(target=_open_and_add, args=(ready, store_place.place, name)) for name in names]
    for service in services:
        service.start()
    for service in services:
        service.join(120)
    assert [service.exitcode for service in services] == [0] * len(names)
    assert store_place.rows("SELECT version_num FROM alembic_version") == [(migrations.NEWEST,)]
    assert sorted(store_place.rows("SELECT id FROM jobs")) == [(name,) for name in names]


def test_a_migration_that_fails_leaves_the_store_as_it_was(
    store_place: StorePlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    upgrade = migrations._upgrade

    def upgrade_and_fail(connection: sa.Connection, is_unnumbered: bool) -> None:
        upgrade(connection, is_unnumbered)
        raise OSError("no space left")

    with monkeypatch.context() as broken:
        broken.setattr(migrations, "_upgrade", upgrade_and_fail)
        with pytest.raises(OSError, match="no space left"):
            Store.open(store_place.place)
    engine = open_engine(store_place.place)
    assert sa.inspect(engine).get_table_names() == []
    engine.dispose()
    Store.open(store_place.place).close()
