"""`clearlane tokens`: who may speak to the gateway."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

from ledger.errors import BadInput
from workers.cli import output
from workers.cli.session import json_option, with_context

if TYPE_CHECKING:
    from datetime import datetime

    from ledger.tokens import Token
    from tasks.context import Context

COLUMNS = (
    "id", "role", "tenant", "principal", "state", "created_at", "expires_at", "revoked_at",
)  # fmt: skip
ROLES = ("client", "agent", "operator", "approver", "viewer", "replica")
EXPIRES_S_MAX = 315_360_000  # ten years


@click.group()
def tokens() -> None:
    """Make, see and revoke the tokens that the gateway asks for."""


@tokens.command()
@click.option("--role", type=click.Choice(ROLES), required=True, help="What it is for.")
@click.option("--principal", required=True, help="Who holds it; records and logs name it.")
@click.option("--client", help="With --role client: the client it acts for.")
@click.option("--agent", help="With --role agent: the agent it acts for.")
@click.option(
    "--expires-s",
    type=click.IntRange(1, EXPIRES_S_MAX),
    help="Seconds from now until it ends; without it never.",
)
@json_option
@with_context
def create(  # noqa: PLR0917
    context: Context,
    role: str,
    principal: str,
    client: str | None,
    agent: str | None,
    expires_s: int | None,
    as_json: bool,
) -> None:
    """Make a token and print it, this once: only a hash of it is kept."""
    from ledger.tokens import Role
    from ledger.tokens import create as create_token

    for name, value in (("client", client), ("agent", agent)):
        if value is not None and role != name:
            raise BadInput(f"--{name}", f"it does not go with --role {role}", "leave it out")
    now = context.now()
    made = create_token(
        context.engine,
        role=Role(role),
        principal=principal,
        tenant=client or agent,
        expires_at=None if expires_s is None else now + timedelta(seconds=expires_s),
        now=now,
    )
    if as_json:
        output.document({"token": made.text} | _row(made.token, now))
    else:
        click.echo(made.text)
        click.echo(f"id {made.token.id}; it is not shown again", err=True)


@tokens.command("list")
@json_option
@with_context
def list_tokens(context: Context, as_json: bool) -> None:
    """Every token ever made, the newest first."""
    from ledger.tokens import all_tokens

    now = context.now()
    rows = [_row(token, now) for token in all_tokens(context.engine)]
    if as_json:
        output.document(rows)
    else:
        output.table(COLUMNS, rows)


@tokens.command()
@click.argument("token_id", metavar="ID")
@json_option
@with_context
def revoke(context: Context, token_id: str, as_json: bool) -> None:
    """End a token for good. The gateway refuses it within five seconds."""
    from ledger.tokens import revoke as revoke_token

    now = context.now()
    row = _row(revoke_token(context.engine, token_id, now), now)
    if as_json:
        output.document(row)
    else:
        click.echo(f"token {row['id']} of {row['principal']} is revoked")


def _row(token: Token, now: datetime) -> dict[str, Any]:
    return {
        **{name: getattr(token, name) for name in COLUMNS if name != "state"},
        "state": token.state(now),
    }
