"""Witnesses: whether one refused because of the log itself, and a role that reads it alone."""

from __future__ import annotations

from importlib import resources

from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Keep it beside the words, which are for people; allow the role."""
    # Through the driver's own cursor, as in 0001.
    versions = resources.files("ledger.migrations.versions")
    op.get_bind().connection.cursor().execute(versions.joinpath("0007_witnesses.sql").read_text())
