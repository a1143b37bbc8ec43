"""`clearlane agents` and `clearlane prices`: the fleet as registered, and what it asks now."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from workers.cli import output
from workers.cli.apply import file_argument, tell
from workers.cli.session import json_option, with_context

if TYPE_CHECKING:
    from ledger.model import Agent
    from tasks.context import Context

COLUMNS = ("agent", "kind", "url", "y_max", "k", "slots", "owner", "region", "tools", "suspended")
PRICE_COLUMNS = (
    "agent", "y", "y_max", "k", "f", "s", "in_flight", "cost_ub", "price_ub", "state", "reason",
)  # fmt: skip


@click.group()
def agents() -> None:
    """See, add, suspend and resume agents."""


@agents.command("list")
@json_option
@with_context
def list_agents(context: Context, as_json: bool) -> None:
    """All agents as registered. The values of their headers are not shown."""
    rows = [_row(agent) for agent in context.registry().agents.values()]
    if as_json:
        output.document(rows)
    else:
        output.table(COLUMNS, rows)


@agents.command()
@click.argument("agent")
@json_option
@with_context
def show(context: Context, agent: str, as_json: bool) -> None:
    """One agent: as registered, and what it asks for a task of 100 tokens."""
    from workers.prices import price_list

    found = _known(context, agent)
    (price,) = (row for row in price_list(context, None, None) if row.agent == agent)
    row = asdict(price) | _row(found)
    if as_json:
        output.document(row)
    else:
        output.fields(row, tuple(row))


@agents.command()
@click.argument("agent")
@with_context
def suspend(context: Context, agent: str) -> None:
    """Take an agent out of routing; what it has in flight goes on."""
    _suspend(context, agent, suspended=True)


@agents.command()
@click.argument("agent")
@with_context
def resume(context: Context, agent: str) -> None:
    """Take a suspended agent back into routing."""
    _suspend(context, agent, suspended=False)


@agents.command()
@file_argument
@json_option
@with_context
def add(context: Context, file: Path, as_json: bool) -> None:
    """Add or change the agents of FILE.toml, which must hold nothing but [[agents]]."""
    from ledger import registry
    from ledger.errors import BadInput
    from workers.config import load_config

    wanted = load_config(file)
    if wanted.params or wanted.clients or wanted.families or not wanted.agents:
        raise BadInput(str(file), "it must hold [[agents]] and nothing else", "use `apply`")
    tell(registry.apply(context.engine, wanted, context.now()), as_json)


@click.command()
@click.option("--size", type=int, help="Tokens of the task; the family's, else 100.")
@click.option("--family", help="Also say who may not take tasks of this family.")
@json_option
@with_context
def prices(context: Context, size: int | None, family: str | None, as_json: bool) -> None:
    """What each agent asks for a task now, and whether it would take it.

    cost is what would be paid; price is what the router compares: cost · (1 + f) / s.
    """
    from workers.prices import price_list

    rows = [asdict(row) for row in price_list(context, size, family)]
    if as_json:
        output.document(rows)
    else:
        output.table(PRICE_COLUMNS, rows)


def _suspend(context: Context, agent: str, *, suspended: bool) -> None:
    from ledger import registry

    _known(context, agent)
    registry.suspend(context.engine, agent, suspended=suspended)
    click.echo(f"{agent} is {'suspended' if suspended else 'in routing'}")


def _known(context: Context, name: str) -> Agent:
    from ledger.errors import NotFound

    found = context.registry().agents.get(name)
    if found is None:
        raise NotFound("agent", f"{name!r} is not known", "see `clearlane agents list`")
    return found


def _row(agent: Agent) -> dict[str, Any]:
    """All fields; of headers the names alone, their values may be secrets."""
    row = asdict(agent)
    row["tools"], row["domains"] = sorted(agent.tools), sorted(agent.domains)
    return {"agent": row.pop("id")} | row | {"headers": sorted(agent.headers)}
