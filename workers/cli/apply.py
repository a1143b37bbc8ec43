"""`clearlane apply`: bring the installation to what a configuration file says."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from workers.cli import output, say
from workers.cli.session import json_option, with_context

if TYPE_CHECKING:
    from tasks.context import Context

file_argument = click.argument("file", type=click.Path(path_type=Path, dir_okay=False))


@click.command()
@file_argument
@json_option
@with_context
def apply(context: Context, file: Path, as_json: bool) -> None:
    """Apply FILE.toml, all of it or nothing, and say what it changed.

    Applying it again changes nothing. What a file leaves out stays as it is, but [routing] is
    replaced as a whole. `mint` counts when a client is created, never again.
    """
    from ledger import registry
    from workers.config import load_config
    from workers.gratis import gratis

    changes = registry.apply(context.engine, load_config(file), context.now())
    tell(changes, as_json)
    for line in gratis(registry.load_registry(context.engine)) if changes else []:
        say(f"warning: {line}")


def tell(changes: list[str], as_json: bool) -> None:
    """What changed, a line each."""
    if as_json:
        output.document([{"change": change} for change in changes])
        return
    for line in changes or ["nothing to change"]:
        click.echo(line)
