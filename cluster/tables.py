"""The tables of the store: jobs, their moves, idempotency keys, the watcher's notes. A change here needs a revision in
`migrations/`."""

from sqlalchemy import Boolean, Column, Float, ForeignKey, Index, Integer, MetaData, String, Table, Text

metadata = MetaData()

jobs = Table(
    "jobs",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("name", String(200), nullable=False),
    Column("state", String(16), nullable=False, index=True),
    Column("settings", Text, nullable=False),
    Column("after", String(64)),
    Column("priority", Integer, nullable=False),
    Column("asked_by", String(200), nullable=False),
    Column("created_at", Float(53), nullable=False),
    Column("moved_at", Float(53), nullable=False),
    Column("started_at", Float(53)),
    Column("ended_at", Float(53)),
    Column("attempt", Integer, nullable=False),
    Column("max_attempts", Integer, nullable=False),
    Column("uncounted", Integer, nullable=False, server_default="0"),
    Column("stop_requested", Boolean, nullable=False),
    Column("stop_by", String(200)),
    Column("resume_requested", Boolean, nullable=False),
    Column("resume_by", String(200)),
    Column("error", Text),
    Column("exit_code", Integer),
    Column("result", Text),
    Column("grant_cpus", Integer, nullable=False),
    Column("grant_gpus", Integer, nullable=False),
    Column("grant_memory", Float(53), nullable=False),
    Column("version", Integer, nullable=False),
    Column("move", Integer, nullable=False),
    Index("jobs_by_age", "created_at", "id"),
)

moves = Table(
    "moves",
    metadata,
    Column("job", String(64), ForeignKey("jobs.id"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("state_before", String(16), nullable=False),
    Column("state", String(16), nullable=False),
    Column("at", Float(53), nullable=False),
    Column("by", String(200), nullable=False),
    Column("reason", Text, nullable=False),
)

keys = Table(
    "keys",
    metadata,
    Column("caller", String(200), primary_key=True),
    Column("key", String(200), primary_key=True),
    Column("body_sha256", String(64), nullable=False),
    Column("job", String(64), ForeignKey("jobs.id"), nullable=False),
)

notes = Table(
    "notes",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("value", Text, nullable=False),
    Column("at", Float(53), nullable=False),
)
