"""`clearlane epochs`: when accounts were cleared, what that moved, and closing one by hand."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

import click

from ledger.errors import Conflict
from workers.cli import output, say
from workers.cli.session import json_option, with_context

if TYPE_CHECKING:
    from ledger.epochs import Epoch, Preview
    from tasks.context import Context

MOVES: Final = 100  # of accounts that a close would move, told by `--dry-run`
BRIEF = ("epoch", "closed_at", "final", "settled", "burned_ub", "demurrage_ub", "charge_ub")
SPAN = ("epoch", "opened_at", "closed_at", "final", "first", "size")
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
    """Every epoch, the newest first; the first one is open. `--json` tells all of each."""
    from ledger import epochs as ledger

    found = ledger.epochs(context.engine, limit=limit)
    if as_json:
        output.document([row_of(item) for item in found])
    else:
        output.table(BRIEF, [row_of(item) | {"final": _final(context, item)} for item in found])


@epochs.command()
@click.argument("number", type=click.IntRange(1, 2**63 - 1))
@json_option
@with_context
def show(context: Context, number: int, as_json: bool) -> None:
    """One epoch: its leaves in the log, its totals, and the hash of all balances at its end."""
    from ledger import epochs as ledger

    _tell(context, ledger.epoch(context.engine, number), as_json=as_json)


@epochs.command()
@click.option(
    "--dry-run", is_flag=True, help="Do nothing: show what would be taken from whom, and given."
)
@json_option
@with_context
def close(context: Context, dry_run: bool, as_json: bool) -> None:
    """Clear all accounts and begin the next epoch, without waiting for its time."""
    from ledger import epochs as ledger
    from tasks import epochs as clearing

    if dry_run:
        found = ledger.preview(context.engine, context.now(), limit=MOVES)
        _tell_preview(found, as_json=as_json)
        return
    number = ledger.opened(context.engine)
    closed = clearing.close(context, number)
    if closed is None:
        remedy = "see `clearlane epochs list`"
        raise Conflict("epoch", f"epoch {number} was closed by another just now", remedy)
    _tell(context, closed, as_json=as_json)


def row_of(item: Epoch) -> dict[str, Any]:
    """An epoch, as programs get it: without totals as long as it is open, without a beginning as
    long as the log has none."""
    row = asdict(item)
    totals = row.pop("totals") or dict.fromkeys(TOTALS)
    return row | totals | ({} if item.begun else {"opened_at": None})


def _final(context: Context, item: Epoch) -> str:
    """Whether what happened in an epoch can still be told otherwise."""
    if item.final_at is not None:
        return output.cell(item.final_at, "final_at")
    if item.closed_at is None:
        return "open" if item.begun else "open, the log has not begun"
    # Whoever signs the log may have a policy that is not known here.
    policy = None if context.notary is None else context.notary.policy()
    return "not final" if policy is None else "waits for the quorum"


def _tell(context: Context, item: Epoch, *, as_json: bool) -> None:
    row = row_of(item)
    if as_json:
        output.document(row)
    else:
        row["final"] = _final(context, item)
        output.fields(row, (*SPAN, *TOTALS, "balances_sha256"))


def _tell_preview(found: Preview, *, as_json: bool) -> None:
    if as_json:
        output.document(asdict(found))
        return
    output.fields({"epoch": found.epoch, **asdict(found.totals)}, ("epoch", *TOTALS))
    if found.moves:
        click.echo()
        output.table(tuple(asdict(found.moves[0])), [asdict(move) for move in found.moves])
    if found.moved > len(found.moves):
        say(f"{found.moved - len(found.moves)} more accounts would move, each by less")
    say(f"nothing was done: epoch {found.epoch} is open")
