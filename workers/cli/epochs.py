"""`clearlane epochs`: when accounts were cleared, what that moved, and closing one by hand."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from ledger.errors import Conflict
from workers.cli import output
from workers.cli.session import json_option, with_context

if TYPE_CHECKING:
    from ledger.epochs import Epoch
    from tasks.context import Context

SPAN = ("epoch", "opened_at", "closed_at", "final_at", "first", "size")
TOTALS = (
    "accounts", "settled", "burned_ub", "minted_ub", "demurrage_ub", "charge_ub", "top_up_ub",
)  # fmt: skip


@click.group()
def epochs() -> None:
    """See when accounts were cleared, and what that moved; clear them now."""


@epochs.command("list")
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True)
@json_option
@with_context
def list_epochs(context: Context, limit: int, as_json: bool) -> None:
    """Every epoch, the newest first; the first one is open."""
    from ledger import epochs as ledger

    rows = [row_of(item) for item in ledger.epochs(context.engine, limit=limit)]
    if as_json:
        output.document(rows)
    else:
        output.table((*SPAN, *TOTALS), rows)


@epochs.command()
@click.argument("number", type=click.IntRange(1, 2**63 - 1))
@json_option
@with_context
def show(context: Context, number: int, as_json: bool) -> None:
    """One epoch: its leaves in the log, its totals, and the hash of all balances at its end."""
    from ledger import epochs as ledger

    _tell(ledger.epoch(context.engine, number), as_json=as_json)


@epochs.command()
@json_option
@with_context
def close(context: Context, as_json: bool) -> None:
    """Clear all accounts and begin the next epoch, without waiting for its time."""
    from ledger import epochs as ledger
    from tasks import epochs as clearing

    number = ledger.opened(context.engine)
    closed = clearing.close(context, number)
    if closed is None:
        remedy = "see `clearlane epochs list`"
        raise Conflict("epoch", f"epoch {number} was closed by another just now", remedy)
    _tell(closed, as_json=as_json)


def row_of(item: Epoch) -> dict[str, Any]:
    """An epoch, as programs get it: without totals as long as it is open."""
    row = asdict(item)
    totals = row.pop("totals") or dict.fromkeys(TOTALS)
    return row | totals


def _tell(item: Epoch, *, as_json: bool) -> None:
    row = row_of(item)
    if as_json:
        output.document(row)
    else:
        output.fields(row, (*SPAN, *TOTALS, "balances_sha256"))
