"""The log: every movement of credit and judgement in one order, and epochs."""

from __future__ import annotations

from importlib import resources

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add the log, its tiles and epochs."""
    # Through the driver's own cursor, as in 0001.
    script = resources.files("ledger.migrations.versions").joinpath("0005_log.sql").read_text()
    op.get_bind().connection.cursor().execute(script)
