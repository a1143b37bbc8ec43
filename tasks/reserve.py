"""`saga.reserve`: choose an agent for each task, take capacity and credit, or say why not.

INIT to RESERVED (paper sections 4 and 6; rows M04, M05, M11). A chunk costs two reads of
PostgreSQL, one read of Redis and one pipeline of scripts; only a pool that moved under a plan
costs another round.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from celery import shared_task

from ledger import attempts, snapshots
from ledger.attempts import Waiting
from ledger.model import AttemptKey, Wait, Work
from ledger.registry import Registry
from scheduler.pool import MT
from scheduler.reservations import Credit, Standing, Taken
from scheduler.router import CAPACITY_MS, Board, NoSeat, Quote, Seat, plan
from scheduler.snapshot import decode_snapshot
from tasks.context import Context, current
from tasks.messages import EXECUTE, RESERVE, received, send
from tasks.patience import patient

ROUNDS_MAX = 4  # plans against moved pools before a task waits instead


@shared_task(name=RESERVE)
def reserve(message: Any) -> None:
    """Reserve a chunk and pass on what got a seat."""
    _reserve(current(), received(RESERVE, message))


@patient
def _reserve(context: Context, keys: Sequence[AttemptKey]) -> None:
    todo = attempts.works(context.engine, keys, context.now()) if keys else []
    seated: list[AttemptKey] = []
    waiting: list[Waiting] = []
    for _ in range(ROUNDS_MAX):
        if not todo:
            break
        taken, refused, todo = _round(context, todo)
        seated += taken
        waiting += refused
    waiting += [Waiting(work.key, Wait.CAPACITY, context.now_ms() + CAPACITY_MS) for work in todo]
    if waiting:
        seated += _put_back(context, waiting)
    send(EXECUTE, seated)


def _put_back(context: Context, waiting: Sequence[Waiting]) -> list[AttemptKey]:
    """Let them wait, but not those that an earlier copy of this message has seated already."""
    sagas = context.reservations.read([item.key for item in waiting])
    seated = {saga.work.key for saga in sagas if saga is not None}
    rest = [item for item in waiting if item.key not in seated]
    if rest:
        attempts.put_back(context.engine, rest)
    return list(seated)


def _round(
    context: Context, works: Sequence[Work]
) -> tuple[list[AttemptKey], list[Waiting], list[Work]]:
    """Plan once and take what was planned: (seated, waiting, to be planned again)."""
    registry = context.registry(families={work.family for work in works})
    now_ms = context.now_ms()
    clients = sorted({work.client for work in works})
    board, released_ub = _board(context, registry, clients, now_ms)
    decisions = plan(works, board, context.rng)
    quotes = [item for item in decisions if isinstance(item, Quote)]
    waiting = [
        Waiting(item.work.key, item.wait, item.not_before_ms)
        for item in decisions
        if isinstance(item, NoSeat)
    ]
    if not quotes:
        return [], waiting, []
    answers = context.reservations.reserve(
        quotes,
        spendable_ub=board.balance_ub,
        released_seen_ub=released_ub,
        lease_until_ms={
            family.id: now_ms + int((family.deadline_s + context.lease_margin_s) * 1000)
            for family in registry.families.values()
        },
        now_ms=now_ms,
    )
    # A duplicate was reserved before: passing it on again is harmless, forgetting it is not.
    seated = [
        quote.work.key
        for quote, said in zip(quotes, answers, strict=True)
        if said in (Taken.OK, Taken.DUPLICATE)
    ]
    again = [
        quote.work
        for quote, said in zip(quotes, answers, strict=True)
        if said in (Taken.MOVED, Taken.CREDIT)
    ]
    return seated, waiting, again


def _board(
    context: Context, registry: Registry, clients: Sequence[str], now_ms: int
) -> tuple[Board, dict[str, int]]:
    """Everything the router looks at. What was released is read before the balances."""
    pools, credits = _look(context, registry, clients, now_ms)
    balance_ub = attempts.spendable_ub(context.engine, clients)
    hooks = context.hooks
    board = Board(
        seats={
            name: Seat.open(registry.agents[name], pool, judged, registry.routing, now_ms)
            for name, (pool, judged) in pools.items()
        },
        balance_ub=balance_ub,
        spendable_ub={
            client: balance_ub[client] - credits[client].reserved_ub for client in clients
        },
        families=registry.families,
        routing=registry.routing,
        now_ms=now_ms,
        veto=(
            (
                lambda work, agent, cost_ub: any(
                    hooks.results("before_task", work=work, agent=agent, cost_ub=cost_ub)
                )
            )
            if hooks.has("before_task")
            else None
        ),
    )
    return board, {client: credit.released_ub for client, credit in credits.items()}


def _look(
    context: Context, registry: Registry, clients: Sequence[str], now_ms: int
) -> tuple[dict[str, Standing], dict[str, Credit]]:
    """Every agent's pool. One that Redis does not have is made from its last snapshot, one that
    has another size than the registry says is resized."""
    names = list(registry.agents)
    found = context.reservations.look(names, clients)
    missing = [
        agent
        for name, agent in registry.agents.items()
        if name not in found[0] or found[0][name][0].y_max_mt != agent.y_max * MT
    ]
    if not missing:
        return found
    known = snapshots.load(context.engine)
    context.reservations.seed(
        missing, {name: decode_snapshot(state) for name, state in known.items()}, now_ms
    )
    return context.reservations.look(names, clients)
