"""Alembic's entry point: it is handed an open connection by `ledger.db.migrate`."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], target_metadata=None)
with context.begin_transaction():
    context.run_migrations()
