"""Settling by sets: what was checked row by row is checked once a statement."""

from __future__ import annotations

from importlib import resources

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Make the checks of accounts, tasks and postings cheap for a chunk."""
    # Through the driver's own cursor, as in 0001.
    script = resources.files("ledger.migrations.versions").joinpath("0003_settle.sql").read_text()
    op.get_bind().connection.cursor().execute(script)
