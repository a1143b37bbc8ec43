"""The house: configuration, tasks, attempts, accounts, transactions, postings."""

from __future__ import annotations

from importlib import resources

from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create everything from nothing."""
    # Through the driver's own cursor: function bodies hold colons, percent signs and semicolons
    # that every layer above would take for its own.
    script = resources.files("ledger.migrations.versions").joinpath("0001_house.sql").read_text()
    op.get_bind().connection.cursor().execute(script)
