"""`clearlane lanes`: who holds which shared resource, taking one by hand, giving it back."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import click

from ledger.errors import BadInput, Conflict
from workers.cli import output, say
from workers.cli.session import json_option, timeout_option, with_context

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ledger.lanes import Ask, Lane
    from tasks.context import Context

LIST = ("lane", "mode", "principal", "reason", "since", "until", "in_flight", "token", "drained")
HISTORY = ("lane", "token", "mode", "principal", "reason", "from", "to", "ended")
HELD_MAX: Final = timedelta(days=7)
SHOWN: Final = 10  # tenures of `show`

_SPAN = re.compile(r"(\d{1,7}(?:\.\d{1,3})?)([smhd])")
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}

as_option = click.option(
    "--as", "name", metavar="NAME", help="Who acts; without it your user name at this host."
)


@click.group()
def lanes() -> None:
    """See who may use which shared resource; take a lane by hand, give it back."""


@lanes.command("list")
@json_option
@with_context
def list_lanes(context: Context, as_json: bool) -> None:
    """Every lane: who holds it, since when, why, and how much of it is in flight."""
    from ledger import lanes as ledger

    rows = [row_of(lane) for lane in ledger.lanes(context.engine, context.now())]
    if as_json:
        output.document(rows)
    else:
        output.table(LIST, rows)


@lanes.command()
@click.argument("lane")
@json_option
@with_context
def show(context: Context, lane: str, as_json: bool) -> None:
    """One lane as it stands, and who held it last."""
    from ledger import lanes as ledger

    found = row_of(ledger.lane(context.engine, lane, context.now()))
    told = [tenure_of(row) for row in ledger.history(context.engine, lane, limit=SHOWN)]
    if as_json:
        output.document(found | {"history": told})
        return
    output.fields(found, tuple(found))
    click.echo("\nhistory, newest first")
    output.table(HISTORY[1:], told)


@lanes.command()
@click.argument("lane", required=False)
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True)
@json_option
@with_context
def history(context: Context, lane: str | None, limit: int, as_json: bool) -> None:
    """Who held a lane, or any lane, newest first: since when (not at all: still waiting, or given
    back before it began), until when, and how it ended."""
    from ledger import lanes as ledger

    if lane is not None:
        ledger.lane(context.engine, lane, context.now())
    rows = [tenure_of(row) for row in ledger.history(context.engine, lane, limit=limit)]
    if as_json:
        output.document(rows)
    else:
        output.table(HISTORY, rows)


@lanes.command()
@click.argument("lane")
@click.option("--reason", required=True, help="Why; whoever is refused meanwhile reads it.")
@click.option(
    "--until",
    "--for",
    "until",
    metavar="WHEN",
    help="How long: 90s, 30m, 2h, or an instant as 2026-11-21T14:00Z.  [default: 30m]",
)
@click.option("--pause", "paused", is_flag=True, help="Nobody works in it until it is released.")
@timeout_option
@as_option
@json_option
@with_context
def lock(  # noqa: PLR0917 - click names them all
    context: Context,
    lane: str,
    reason: str,
    until: str | None,
    paused: bool,
    timeout: float | None,
    name: str | None,
    as_json: bool,
) -> None:
    """Hold a lane for work outside Clearlane.

    Returns once nothing of the lane is in flight any more; nothing new starts from the first
    moment. The lane goes back to cron by itself when the time is over: release it earlier if you
    can. A paused lane has no such end.
    """
    from ledger import lanes as ledger
    from ledger.lanes import Ask
    from workers.holding import announce
    from workers.principal import principal
    from workers.principal import reason as checked

    if paused and until is not None:
        raise BadInput("--until", "a paused lane has no end", "release it when it may go on")
    now = context.now()
    ask = Ask(
        principal=principal(name),
        reason=checked(reason),
        lease_s=seconds_until(until or "30m", now),
    )
    take = ledger.pause if paused else ledger.take
    taken = announce(context, take(context.engine, lane, ask, now))
    found = _drained(context, taken, timeout)
    if as_json:
        output.document({"lane": found.lane, "token": found.token, "until": found.until})
    else:
        click.echo(_held(found, ask))


@lanes.command()
@click.argument("lane")
@click.option("--token", type=click.IntRange(1), help="Only if it is still held under this one.")
@as_option
@json_option
@with_context
def release(
    context: Context, lane: str, token: int | None, name: str | None, as_json: bool
) -> None:
    """Give a lane that you hold back to cron."""
    from ledger import lanes as ledger
    from ledger.lanes import Mode
    from workers.holding import given_back
    from workers.principal import principal

    found = ledger.lane(context.engine, lane, context.now())
    if token in {None, found.token}:
        if found.mode is Mode.CRON:
            raise Conflict("lane", f"nobody holds {lane}", "there is nothing to release")
        who = principal(name)
        if found.principal != who:
            raise Conflict(
                "lane",
                f"{lane} is {'paused' if found.mode is Mode.PAUSED else 'held'} by"
                f" {found.principal} since {found.since:%Y-%m-%d %H:%M:%S} UTC, not by {who}",
                f"ask {found.principal}, or say who you are with --as",
            )
    back = given_back(context, lane, token or found.token)
    if as_json:
        output.document({"lane": back.lane, "token": back.token, "drained": back.drained})
    else:
        later = "" if back.drained else f" once {back.in_flight} tasks in flight have ended"
        click.echo(f"{lane} goes back to cron{later}")


def _drained(context: Context, taken: Lane, timeout_s: float | None) -> Lane:
    """The lane once its holder may begin; given back when it does not come to that."""
    from ledger.errors import LaneLost
    from workers.cli.progress import Draining
    from workers.holding import drained, given_back

    try:
        return drained(context, taken, timeout_s=timeout_s, tell=Draining())
    except LaneLost:
        raise
    except BaseException:
        given_back(context, taken.lane, taken.token)
        say(f"{taken.lane} was given back")
        raise


def row_of(lane: Lane) -> dict[str, Any]:
    """A lane, as programs get it."""
    return {
        "lane": lane.lane,
        "mode": lane.mode,
        "principal": lane.principal,
        "reason": lane.reason,
        "batch": lane.serves or None,
        "since": lane.since,
        "until": lane.until,
        "token": lane.token,
        "drained": lane.drained,
        "in_flight": lane.in_flight,
    }


def tenure_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """One tenure, as programs get it: `from` is null as long as its holder has not begun."""
    return {
        **{name: row[name] for name in ("lane", "token", "mode", "principal", "reason")},
        "asked_at": row["asked_at"],
        "from": row["granted_at"],
        "to": row["ended_at"],
        "ended": row["ended"],
    }


def seconds_until(text: str, now: datetime) -> float:
    """How long from now, from `30m` or an instant. Raises BadInput."""
    span = _SPAN.fullmatch(text.strip())
    if span is not None:
        left_s = float(span[1]) * _UNIT_S[span[2]]
    else:
        left_s = (_instant(text) - now).total_seconds()
    if not 0 < left_s <= HELD_MAX.total_seconds():
        raise BadInput(
            "--until",
            f"{text} is {'over' if left_s <= 0 else 'too long'}",
            f"hold a lane for {HELD_MAX.days} days at most",
        )
    return left_s


def _instant(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text.strip())
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        remedy = "use 90s, 30m, 2h, 1d, or an instant with its zone as 2026-11-21T14:00Z"
        raise BadInput("--until", f"{text!r} is no time", remedy)
    return found


def _held(found: Lane, ask: Ask) -> str:
    how = "paused" if found.until is None else f"held until {found.until:%Y-%m-%d %H:%M:%S} UTC"
    return (
        f"{found.lane} is {how} by {ask.principal} (token {found.token});"
        f" `clearlane lanes release {found.lane}` gives it back"
    )
