"""Subtasks: what an agent pays for a part of its task."""

from __future__ import annotations

from importlib import resources

from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Let a task have a parent and be paid by an agent."""
    # Through the driver's own cursor, as in 0001.
    script = resources.files("ledger.migrations.versions").joinpath("0006_subtasks.sql").read_text()
    op.get_bind().connection.cursor().execute(script)
