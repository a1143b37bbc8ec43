"""Lanes: who may use a shared resource, one holder at a time."""

from __future__ import annotations

from importlib import resources

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add lanes, their history and batches."""
    # Through the driver's own cursor, as in 0001.
    script = resources.files("ledger.migrations.versions").joinpath("0004_lanes.sql").read_text()
    op.get_bind().connection.cursor().execute(script)
