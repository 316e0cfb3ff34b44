"""Who asked for a job's stop, and who for going on."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the columns; nobody is known for wishes of before."""
    for name in ("stop_by", "resume_by"):
        op.add_column("jobs", sa.Column(name, sa.String(200)))
