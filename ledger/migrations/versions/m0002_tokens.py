"""Tokens: who may speak to the gateway, as whom."""

from __future__ import annotations

from importlib import resources

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the table of tokens."""
    # Through the driver's own cursor, as in 0001.
    script = resources.files("ledger.migrations.versions").joinpath("0002_tokens.sql").read_text()
    op.get_bind().connection.cursor().execute(script)
