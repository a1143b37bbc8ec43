"""`clearlane ledger`: balances, movements, parameters, and the check of everything."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from workers.cli import FAILED, output
from workers.cli.session import json_option, with_context

if TYPE_CHECKING:
    from tasks.context import Context
    from workers.audit import Audit

BALANCES = ("account", "balance_ub", "quota_ub")
POSTINGS = ("transaction", "kind", "task", "at", "amount_ub")
TOTALS = (
    "transactions", "settlements", "tasks",
    "minted_ub", "burned_ub", "clients_ub", "agents_ub", "commons_ub",
)  # fmt: skip


@click.group()
def ledger() -> None:
    """See what was paid, and check it."""


@ledger.command()
@json_option
@with_context
def balances(context: Context, as_json: bool) -> None:
    """Every account: what it holds, and how far below zero it may go."""
    from ledger import accounts

    rows = accounts.balances(context.engine)
    if as_json:
        output.document(rows)
    else:
        output.table(BALANCES, rows)


@ledger.command()
@click.argument("name")
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True)
@json_option
@with_context
def account(context: Context, name: str, limit: int, as_json: bool) -> None:
    """One account, as client:R or agent:A, and its newest movements."""
    from ledger import accounts

    found = accounts.account(context.engine, name, limit=limit)
    if as_json:
        output.document(found)
        return
    output.fields(found, (*BALANCES, "opened_at"))
    if found["postings"]:
        click.echo()
        output.table(POSTINGS, found["postings"])


@ledger.command()
@json_option
@with_context
def check(context: Context, as_json: bool) -> None:
    """Recompute everything; exit 1 and name each violation if something does not hold."""
    from workers.audit import audit

    found = audit(context)
    if as_json:
        output.document({"ok": not found.violations} | asdict(found))
    else:
        _tell(found)
    if found.violations:
        click.get_current_context().exit(FAILED)


@ledger.command()
@json_option
@with_context
def params(context: Context, as_json: bool) -> None:
    """The parameters in force, defaults included."""
    rows = _params(context)
    if as_json:
        output.document(rows)
    else:
        output.table(("name", "value"), rows)


def _tell(found: Audit) -> None:
    output.fields(found.totals, TOTALS)
    if found.in_flight:
        click.echo(
            f"{found.in_flight} attempts are in flight: what Redis holds for them was not checked"
        )
    for item in found.violations:
        click.echo(f"{item.invariant} {item.subject}: {item.violation}")
    click.echo(f"{len(found.violations)} violations" if found.violations else "everything holds")


def _params(context: Context) -> list[dict[str, Any]]:
    from ledger.db import single
    from ledger.params import params_of

    registry = context.registry()
    with single(context.engine) as connection:
        stored = params_of(connection)
    known = stored | {"tau_ppm": registry.tau_ppm, "routing": asdict(registry.routing)}
    return [{"name": name, "value": known[name]} for name in sorted(known)]
