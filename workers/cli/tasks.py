"""`clearlane task`: one task's story, the newest tasks, cancelling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from workers.cli import output
from workers.cli.session import json_option, with_context

if TYPE_CHECKING:
    from tasks.context import Context

FIELDS = (
    "task", "state", "why", "reason", "payer", "parent", "family", "type", "size", "lane", "batch",
    "agent", "quoted_ub", "cost_ub", "leaf", "submitted_at", "expires_at", "ended_at",
)  # fmt: skip
ATTEMPTS = (
    "attempt", "agent", "state", "outcome", "cost_ub", "latency_s",
    "f_before", "f_after", "s_before", "s_after", "reason", "price",
)  # fmt: skip
PARTS = ("task", "attempt", "state", "family", "size", "agent", "cost_ub")
BUDGETS = ("attempt", "budget_ub", "left_ub")
AGENTS = ("agent", "choice", "words")
AGENTS_MAX = 30  # shown to people; programs get all
LIST = ("task", "payer", "family", "type", "size", "state", "wait", "attempt", "submitted_at",
        "reason")  # fmt: skip
STATES = ("INIT", "COMMITTED", "QUARANTINED", "CANCELLED", "EXPIRED")


@click.group()
def task() -> None:
    """See and cancel tasks."""


@task.command()
@click.argument("task_id", metavar="ID")
@json_option
@with_context
def show(context: Context, task_id: str, as_json: bool) -> None:
    """One task: where it stands, why it waits, what each attempt did, what came out, where in the
    log its settlement is, and the parts that its agents had done by others.

    While it waits: why each agent would, or would not, be chosen now. `task list` has the ids.
    """
    found = _story(context, task_id)
    if as_json:
        output.document(found)
    else:
        _tell(found)


def _tell(found: Mapping[str, Any]) -> None:
    output.fields(found, FIELDS)
    if found["agents"]:
        click.echo("\nagents, as the router sees them for this task now")
        output.table(AGENTS, found["agents"][:AGENTS_MAX])
        if len(found["agents"]) > AGENTS_MAX:
            click.echo(f"… and {len(found['agents']) - AGENTS_MAX} more: --json shows all")
    if found["attempts"]:
        click.echo("\nattempts")
        output.table(ATTEMPTS, found["attempts"])
    if found["parts"]:
        click.echo("\nparts that its agents had done by others, and what they may cost")
        output.table(PARTS, found["parts"])
        output.table(BUDGETS, found["budgets"])
    click.echo("\ntimeline")
    output.table(("at", "what"), found["timeline"])
    if found["agent"] is not None:
        click.echo("\nresult")
        output.document(found["result"])


@task.command("list")
@click.option("--client", help="Only this client's.")
@click.option("--state", type=click.Choice(STATES, case_sensitive=False), help="Only these.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True)
@click.option("--before", metavar="ID", help="Only older ones: the last task of a page.")
@json_option
@with_context
def list_tasks(  # noqa: PLR0917 - click names them all
    context: Context,
    client: str | None,
    state: str | None,
    limit: int,
    before: str | None,
    as_json: bool,
) -> None:
    """The newest tasks first."""
    from ledger.intake import task_list
    from workers.terms import checked_name

    if client is not None:
        checked_name("--client", client)
    last = _page(before) if before is not None else None
    found = task_list(context.engine, client=client, state=state, before=last, limit=limit)
    rows = [{"task": row.pop("id")} | row for row in found]
    if as_json:
        output.document(rows)
    else:
        output.table(LIST, rows)


@task.command()
@click.argument("task_id", metavar="ID")
@json_option
@with_context
def cancel(context: Context, task_id: str, as_json: bool) -> None:
    """End a task that has not ended. What an agent does for it now will not be paid."""
    from ledger import intake

    checked = intake.checked_id(task_id)
    intake.cancel(context.engine, checked, context.now())
    if as_json:
        output.document({"task": checked, "state": "CANCELLED"})
    else:
        click.echo(f"{checked} is CANCELLED")


def _page(before: str) -> str:
    """The id that `--before` names. Raises BadInput under the option's own name."""
    from ledger.errors import BadInput
    from ledger.intake import checked_id

    try:
        return checked_id(before)
    except BadInput as error:
        raise BadInput("--before", error.reason, error.remedy) from None


def _story(context: Context, task_id: str) -> dict[str, Any]:
    from ledger.intake import checked_id, task_row
    from ledger.subtasks import parts
    from scheduler.explain import first_choice
    from workers.obstacles import paid_price, rows
    from workers.waits import explain

    row = task_row(context.engine, checked_id(task_id))
    story = {"task": row["id"]} | {key: row[key] for key in row if key not in ("id", "output")}
    story["batch"] = row["batch"] or None
    why = explain(context, row) if row["state"] == "INIT" else None
    story["why"] = why.words if why else None
    story["quoted_ub"] = why.quoted_ub if why else row["cost_ub"]
    agents = why.agents if why else ()
    story["agents"] = rows(agents, first_choice(agents), context.now())
    known = context.registry().agents
    story["attempts"] = [
        item | {"price": paid_price(known.get(item["agent"]), row["size"], item)}
        for item in row["attempts"]
    ]
    found = parts(context.engine, story["task"])
    story["parts"] = [{name: part[name] for name in PARTS} for part in found]
    story["budgets"] = _budgets(context, story["task"], found)
    story["result"] = output.Foreign(row["output"])
    story["timeline"] = timeline(row, row["attempts"])
    return story


def _budgets(
    context: Context, task: str, found: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """What each attempt's parts may cost together, and what is left of it; of an attempt that is
    over nothing is: its parts are cancelled, or paid by what they held."""
    from ledger.model import AttemptKey

    asked = {part["attempt"]: part["budget_ub"] for part in found}
    sagas = context.reservations.read([AttemptKey(task, attempt) for attempt in asked])
    return [
        {
            "attempt": attempt,
            "budget_ub": budget_ub,
            "left_ub": 0 if saga is None else budget_ub - saga.outsourced_ub,
        }
        for (attempt, budget_ub), saga in zip(asked.items(), sagas, strict=True)
    ]


def timeline(row: Mapping[str, Any], attempts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What happened to a task and when, oldest first: `at`, `what`."""
    events = [(row["submitted_at"], f"submitted by {row['payer'].removeprefix('client:')}")]
    for item in attempts:
        who, took = item["agent"] or "no agent", f"after {item['latency_s']:.3g} s"
        what = f"attempt {item['attempt']}: {who} {item['outcome']} {took}, {item['state']}"
        events.append((item["ended_at"], f"{what} ({item['reason']})"))
    if row["ended_at"] is not None:
        events.append((row["ended_at"], f"ended: {row['state']}"))
    return [{"at": at, "what": what} for at, what in sorted(events, key=lambda event: event[0])]
