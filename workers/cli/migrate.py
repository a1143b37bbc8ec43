"""`clearlane migrate`: bring the database to the current schema."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from ledger.errors import BadInput
from workers.cli import say
from workers.settings import load_settings


@click.command()
def migrate() -> None:
    """Bring the database at DATABASE_URL to the current schema.

    Makes the key of its log, too, if CLEARLANE_LOG_KEY_FILE says where, and there is none.

    `up` does both by itself; this is for installations whose processes are started one by one.
    """
    from workers.logkey import keep_key
    from workers.wiring import migrate as bring_up_to_date

    settings = load_settings()
    if settings.database_url is None:
        raise BadInput("DATABASE_URL", "it is not set", "name the database to migrate")
    bring_up_to_date(settings.database_url)
    if settings.log_key_file is not None:
        for fault in keep_key(settings.database_url, settings, None, datetime.now(UTC)):
            say(fault)
    click.echo("the schema is current")
