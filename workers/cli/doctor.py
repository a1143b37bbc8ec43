"""`clearlane doctor`: checks the installation and says what to do."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from workers.cli import FAILED
from workers.cli.session import json_option

if TYPE_CHECKING:
    from workers.doctor.finding import Finding

COLOURS: Final = {"ok": "green", "warn": "yellow", "fail": "red", "skipped": "bright_black"}
NAME_WIDTH: Final = 22


@click.command()
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Home of the stack (CLEARLANE_DATA, else .clearlane).",
)
@json_option
@click.pass_context
def doctor(ctx: click.Context, data: Path | None, as_json: bool) -> None:
    """Check the installation and say what to do. Changes nothing, and runs when nothing else does.

    Each check is ok, warn or fail, or skipped where there is nothing to look at. Exits 1 if one
    fails.
    """
    from workers.doctor.rounds import rounds

    found: list[Finding] = []
    for findings in rounds(data):
        found += findings
        if not as_json:
            for item in findings:
                _tell(item)
    failed = sum(item.level == "fail" for item in found)
    warned = sum(item.level == "warn" for item in found)
    if as_json:
        click.echo(json.dumps([asdict(item) for item in found]))
    else:
        click.echo(f"{len(found)} findings: {failed} failed, {warned} warnings")
    if failed:
        ctx.exit(FAILED)


def _tell(item: Finding) -> None:
    from tasks.text import printable

    level = click.style(f"{item.level:8}", fg=COLOURS[item.level])
    click.echo(f"{level}{item.check:{NAME_WIDTH}}{printable(item.found, 300)}")
    if item.remedy:
        click.echo(f"{'':8}{'':{NAME_WIDTH}}→ {printable(item.remedy, 300)}")
