"""`clearlane migrate`: bring the database to the current schema, and do nothing else."""

from __future__ import annotations

import click

from ledger.errors import BadInput
from workers.settings import load_settings


@click.command()
def migrate() -> None:
    """Bring the database at DATABASE_URL to the current schema.

    `up` does it by itself; this is for installations whose processes are started one by one.
    """
    from workers.wiring import migrate as bring_up_to_date

    settings = load_settings()
    if settings.database_url is None:
        raise BadInput("DATABASE_URL", "it is not set", "name the database to migrate")
    bring_up_to_date(settings.database_url)
    click.echo("the schema is current")
