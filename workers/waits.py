"""Why a task has not ended yet, in words for people who want to know what to do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ledger import attempts
from ledger.model import AttemptKey, SagaState, Wait
from ledger.money import show_b
from scheduler.saga import Saga
from tasks.context import Context
from workers.prices import PriceRow, price_list

NAMED_MAX = 5  # agents told one by one

STEPS = {
    SagaState.RESERVED: "is reserved for it",
    SagaState.EXECUTING: "is working on it",
    SagaState.SUCCEEDED: "has answered well: it is being settled",
    SagaState.FAILED: "has failed it: it is being taken back",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Why:
    """Why a task waits, and the price at which it is in flight, if it is."""

    words: str
    quoted_ub: int | None = None


def explain(context: Context, task: Mapping[str, Any]) -> Why:
    """The reason behind `task`, a row of `ledger.intake.task_row` in state INIT."""
    wait = Wait(task["wait"])
    if wait is Wait.DISPATCH:
        return Why(words="it is ready; the dispatcher takes it as soon as the fleet has room")
    if wait is Wait.ATTEMPT:
        (saga,) = context.reservations.read([AttemptKey(str(task["id"]), task["attempt"])])
        return _in_flight(task, saga)
    rows = price_list(context, task["size"], task["family"])
    fit = [row for row in rows if row.state not in ("unfit", "suspended")]
    if wait is Wait.CREDIT:
        return Why(words=_credit(context, task["client"], fit))
    if wait is Wait.NO_AGENT:
        return Why(words=f"no agent may take it: {_agents(rows)}")
    return Why(words=f"no agent had room for {task['size']} tokens: {_agents(fit)}")


def _in_flight(task: Mapping[str, Any], saga: Saga | None) -> Why:
    if saga is None:
        return Why(words=f"attempt {task['attempt']} is on its way to an agent")
    words = f"attempt {task['attempt']}: agent {saga.agent} {STEPS[saga.state]}"
    return Why(words=words, quoted_ub=saga.cost_ub)


def _credit(context: Context, client: str, fit: list[PriceRow]) -> str:
    # In this order: a settlement in between then counts twice for a moment, never not at all.
    _, credits = context.reservations.look([], [client])
    left_ub = attempts.spendable_ub(context.engine, [client])[client]
    left_ub -= credits[client].reserved_ub
    costs = [row.cost_ub for row in fit if row.cost_ub is not None]
    lowest = f"the lowest price is {show_b(min(costs))} B now" if costs else "no agent has room"
    return f"client {client} can spend {show_b(left_ub)} B and {lowest}"


def _agents(rows: list[PriceRow]) -> str:
    """Each agent's situation now; of a large fleet how many stand in which."""
    if not rows:
        return "there is none that fits"
    if len(rows) <= NAMED_MAX:
        return "; ".join(
            f"{row.agent} is {row.state}{f' ({row.reason})' if row.reason else ' now'}"
            for row in rows
        )
    counts = Counter(row.state for row in rows)
    return ", ".join(f"{count} {state}" for state, count in counts.most_common())
