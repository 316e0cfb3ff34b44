"""What Alembic runs: the revisions that a store lacks, on the connection and in the transaction that it was given."""

from alembic import context

from cluster import tables

context.configure(connection=context.config.attributes["connection"], target_metadata=tables.metadata)
with context.begin_transaction():
    context.run_migrations()
