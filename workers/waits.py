"""Why a task has not ended yet, in words for people who want to know what to do.

The router itself is asked (`scheduler.explain`), on what it would see now; nothing is reserved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ledger import accounts, attempts
from ledger.db import instant
from ledger.model import LANE_DEFAULT, AttemptKey, SagaState, Wait, Work
from ledger.money import show_b
from scheduler.explain import Obstacle, Opinion, first_choice, opinions
from scheduler.reservations import Credit
from scheduler.router import Board, Seat
from scheduler.saga import Saga
from tasks.context import Context
from workers.lanewaits import held_up
from workers.obstacles import counted, words_of
from workers.prices import standings_of

NAMED_MAX = 5  # agents told one by one

STEPS = {
    SagaState.RESERVED: "is reserved for it",
    SagaState.EXECUTING: "is working on it",
    SagaState.SUCCEEDED: "has answered well: it is being settled",
    SagaState.FAILED: "has failed it: it is being taken back",
}
PACED = {Wait.DISPATCH, Wait.LANE, Wait.COOLDOWN}
UNFIT = {
    Obstacle.SUSPENDED,
    Obstacle.LANE,
    Obstacle.TOOLS,
    Obstacle.DOMAIN,
    Obstacle.REGION,
    Obstacle.WAITS,
    Obstacle.TOO_SMALL,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Why:
    """Why a task waits.

    quoted_ub: the price at which it is in flight, if it is. agents: what the router makes of
    each now, in the order of the registry; empty while an attempt is in flight.
    """

    words: str
    quoted_ub: int | None = None
    agents: tuple[Opinion, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Situation:
    """All that a reason is told from."""

    task: Mapping[str, Any]
    agents: tuple[Opinion, ...]
    credit: Credit
    settled_ub: int  # balance and quota
    budget_ub: int | None  # what its parent's budget leaves for it
    now: datetime


def explain(context: Context, task: Mapping[str, Any]) -> Why:
    """The reason behind `task`, a row of `ledger.intake.task_row` in state INIT.

    Raises Unavailable when PostgreSQL or Redis is away.
    """
    tried = _tried(task.get("attempts", ()))
    if Wait(task["wait"]) is Wait.ATTEMPT:
        (saga,) = context.reservations.read([AttemptKey(str(task["id"]), task["attempt"])])
        flight = _in_flight(task, saga)
        return Why(words=flight.words + tried, quoted_ub=flight.quoted_ub)
    seen = _situation(context, task)
    held = held_up(context, task)
    if held is not None:
        return Why(words=held + tried, agents=seen.agents)
    reason = _cooling(seen) or _slowed(context, seen) or _reason(context, seen)
    return Why(words=reason + _again(seen) + tried, agents=seen.agents)


def _situation(context: Context, task: Mapping[str, Any]) -> _Situation:
    """The router's board as it is now. What is reserved is read before the balances: a settlement
    in between then counts twice for a moment, never not at all."""
    registry, now_ms, payer = context.registry(), context.now_ms(), task["payer"]
    _, credits = context.reservations.look([], [payer])
    settled_ub = attempts.spendable_ub(context.engine, [payer])[payer]
    hooks, work = context.hooks, _work(context, task)
    board = Board(
        seats={
            name: Seat.open(registry.agents[name], pool, judged, registry.routing, now_ms)
            for name, (pool, judged) in standings_of(context, registry, now_ms).items()
        },
        balance_ub={payer: settled_ub},
        spendable_ub={payer: settled_ub - credits[payer].reserved_ub},
        families=registry.families,
        routing=registry.routing,
        now_ms=now_ms,
        veto=lambda work, agent, cost_ub: any(
            hooks.results("before_task", work=work, agent=agent, cost_ub=cost_ub)
        ),
    )
    return _Situation(
        task=task,
        agents=tuple(sorted(opinions(work, board), key=lambda item: item.agent.id)),
        credit=credits[payer],
        budget_ub=None if work.parent is None else int(board.budget_ub(work)),
        settled_ub=settled_ub,
        now=context.now(),
    )


def _work(context: Context, task: Mapping[str, Any]) -> Work:
    return Work(
        key=AttemptKey(str(task["id"]), max(1, task["attempt"])),
        payer=task["payer"],
        payer_owner=task["payer_owner"] or "",
        family=task["family"],
        size=task["size"],
        avoid=task["avoid"],
        lane=task["lane"],
        **_part(context, task),
    )


def _part(context: Context, task: Mapping[str, Any]) -> dict[str, Any]:
    """What a subtask has beyond other tasks; of a parent that is over no budget is left."""
    if task["parent"] is None:
        return {}
    parent = AttemptKey(str(task["parent"]), task["parent_attempt"])
    (saga,) = context.reservations.read([parent])
    return {
        "parent": parent,
        "chain": tuple(task["chain"]),
        "budget_ub": 0 if saga is None else task["budget_ub"],
        "outsourced_ub": 0 if saga is None else saga.outsourced_ub,
    }


def _cooling(seen: _Situation) -> str | None:
    """Nobody who could take it may be called now: when the first of them may (M27)."""
    fit = _fit(seen)
    if not fit or any(Obstacle.RESTING not in item.obstacles for item in fit):
        return None
    at = instant(min(item.pool.next_available_ms for item in fit))
    who = f"all {len(fit)} agents" if len(fit) > 1 else f"agent {fit[0].agent.id}"
    return f"waiting: {who} cooling down, next at {at:%H:%M:%S}Z"


def _slowed(context: Context, seen: _Situation) -> str | None:
    """One of its lane's agents said 429: the lane starts one task at a time for a while."""
    lane = seen.task["lane"]
    if lane == LANE_DEFAULT or Wait(seen.task["wait"]) not in PACED:
        return None
    at = context.reservations.paces([lane], context.now_ms()).get(lane)
    if at is None:
        return None
    return f"waiting: lane {lane} goes slowly after a 429, next start at {instant(at):%H:%M:%S}Z"


def _reason(context: Context, seen: _Situation) -> str:
    match Wait(seen.task["wait"]):
        case Wait.DISPATCH | Wait.LANE:
            return _dispatch(seen)
        case Wait.CREDIT:
            return _credit(context, seen)
        case Wait.BUDGET:
            return _budget(seen)
        case Wait.NO_AGENT:
            return f"no agent may take it: {_agents(seen, seen.agents)}"
        case Wait.COOLDOWN:
            return f"every agent that could take it rests: {_agents(seen, _fit(seen))}"
        case _:
            return f"no agent had room for {seen.task['size']} tokens: {_agents(seen, _fit(seen))}"


def _dispatch(seen: _Situation) -> str:
    ready = "it is ready; the dispatcher takes it as soon as the fleet has room"
    first = first_choice(seen.agents)
    if first is None:
        return f"{ready}, but nobody could have it now: {_agents(seen, seen.agents)}"
    return f"{ready}; first choice now: {words_of(first, first, seen.now)}"


def _fit(seen: _Situation) -> list[Opinion]:
    """Those whose constraints allow the task, the others will not help by ending something; all
    of them when it has become impossible meanwhile."""
    return [item for item in seen.agents if not UNFIT & set(item.obstacles)] or [*seen.agents]


def _credit(context: Context, seen: _Situation) -> str:
    payer = str(seen.task["payer"])
    spendable_ub = seen.settled_ub - seen.credit.reserved_ub
    account = accounts.account(context.engine, payer, limit=1)
    said = (
        f"{payer.replace(':', ' ')} can spend {show_b(spendable_ub)} B "
        f"(balance {show_b(account['balance_ub'])} B, quota {show_b(account['quota_ub'])} B, "
        f"{show_b(seen.credit.reserved_ub)} B held by what is in flight)"
    )
    able = [i for i in _fit(seen) if i.price and set(i.obstacles) <= {Obstacle.CREDIT}]
    if not able:
        return f"{said}, and no agent has room: {_agents(seen, _fit(seen))}"
    least = min(able, key=lambda item: item.price.cost_ub if item.price else 0)
    cost_ub = least.price.cost_ub if least.price else 0
    short_ub = cost_ub - spendable_ub
    lacking = (
        f"{show_b(short_ub)} B are missing: earn them, raise the quota, or submit a smaller size"
        if short_ub > 0
        else "that is enough now"
    )
    return f"{said} and the lowest price is {show_b(cost_ub)} B now ({least.agent.id}); {lacking}"


def _budget(seen: _Situation) -> str:
    left = show_b(seen.budget_ub or 0)
    said = f"attempt {seen.task['parent_attempt']} of task {seen.task['parent']} asked for it"
    return (
        f"{said}, whose budget leaves {left} B of {show_b(seen.task['budget_ub'])} B; it is"
        f" cancelled when that attempt is over: {_agents(seen, _fit(seen))}"
    )


def _in_flight(task: Mapping[str, Any], saga: Saga | None) -> Why:
    if saga is None:
        return Why(words=f"attempt {task['attempt']} is on its way to an agent")
    words = f"attempt {task['attempt']}: agent {saga.agent} {STEPS[saga.state]}"
    return Why(words=words, quoted_ub=saga.cost_ub)


def _again(seen: _Situation) -> str:
    """When the dispatcher will look at it again."""
    wait_s = (seen.task["ready_at"] - seen.now).total_seconds()
    at = instant(int(seen.task["ready_at"].timestamp() * 1000))
    return f"; looked at again in {wait_s:.1f} s ({at:%H:%M:%S}Z)" if wait_s > 0 else ""


def _tried(tried: Sequence[Mapping[str, Any]]) -> str:
    """How it was tried so far, in short."""
    if not tried:
        return ""
    last = [f"{item['agent'] or 'no agent'} {item['outcome']}" for item in tried[-NAMED_MAX:]]
    before = f"{len(tried) - NAMED_MAX} more, then " if len(tried) > NAMED_MAX else ""
    return f"; tried before: {before}{', '.join(last)}"


def _agents(seen: _Situation, some: Sequence[Opinion]) -> str:
    """Each agent's situation now; of a large fleet how many stand in which."""
    if not some:
        return "there is none; `clearlane agents add` adds one"
    if len(some) > NAMED_MAX:
        return counted(some)
    first = first_choice(seen.agents)
    return "; ".join(words_of(item, first, seen.now) for item in some)
