"""`clearlane ledger`: balances, movements, parameters, and the check of everything."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from ledger.errors import BadInput, NotFound
from workers.cli import FAILED, output
from workers.cli.session import json_option, with_context

if TYPE_CHECKING:
    from tasks.context import Context
    from workers.audit import Audit

BALANCES = ("account", "balance_ub", "quota_ub")
HELD = ("account", "balance_ub", "index", "at", "epoch")
INDEX_DIGITS = 18
POSTINGS = ("transaction", "kind", "task", "at", "amount_ub", "leaf")
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
@click.option(
    "--at",
    metavar="WHEN",
    help="What it held after this leaf of the log, or at an instant as 2026-11-21T14:00Z.",
)
@json_option
@with_context
def account(context: Context, name: str, limit: int, at: str | None, as_json: bool) -> None:
    """One account, as client:R or agent:A, and its newest movements."""
    from ledger import accounts

    if at is not None:
        _tell_held(context, name, at, as_json=as_json)
        return
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


def _tell_held(context: Context, name: str, at: str, *, as_json: bool) -> None:
    from ledger.history import held

    try:
        found = asdict(held(context.engine, name, _point(at, context.now())))
    except NotFound as error:
        if error.field == "account":
            raise
        raise BadInput("--at", error.reason, error.remedy) from None
    if as_json:
        output.document(found)
    else:
        output.fields(found, HELD)


def _point(text: str, now: datetime) -> int | datetime:
    """A leaf's index or an instant that is over. Raises BadInput."""
    if text.isascii() and text.isdigit() and len(text) <= INDEX_DIGITS:
        return int(text)
    try:
        found = datetime.fromisoformat(text.strip())
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        remedy = "use a leaf's index, or an instant with its zone as 2026-11-21T14:00Z"
        raise BadInput("--at", f"{text!r} is neither", remedy)
    if found > now:
        reason = f"{text} lies ahead: it is {output.instant(now)}"
        raise BadInput("--at", reason, "name a time that is over")
    return found


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
