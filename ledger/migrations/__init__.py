"""Schema changes in order, run by Alembic; each is one SQL file beside its revision."""
