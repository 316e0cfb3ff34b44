"""Attempts that do not count: `max_attempts` stays what was asked for."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the column. Until now uncounted attempts were added to `max_attempts`, and stay in it."""
    op.add_column("jobs", sa.Column("uncounted", sa.Integer, nullable=False, server_default="0"))
