"""Why an agent may or may not have a task: the router, asked again with obstacles taken away.

No rule of the router is written a second time here. Each obstacle is tried by planning the task
on a board of this agent alone, with that obstacle left standing and those that come after it
removed: where the router then finds no seat, the obstacle is real. Pure. Row M11.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from ledger.model import Agent, Family, Work
from scheduler.pool import MT, Pool, cost_ub
from scheduler.router import Board, NoSeat, Quote, Seat, plan

UNLIMITED_UB = 1 << 62  # more credit than any price


class Obstacle(StrEnum):
    """What keeps a task from an agent, in the order in which they are told."""

    SUSPENDED = "suspended"
    LANE = "lane"  # it works in another lane
    TOOLS = "tools"
    DOMAIN = "domain"
    REGION = "region"
    WAITS = "waits"  # it works on the task that this one is a part of
    TOO_SMALL = "too_small"  # the task does not even fit when the agent is idle
    AVOIDED = "avoided"  # it failed this task last, and there is someone else
    RESTING = "resting"  # cooldown, Retry-After
    NO_SLOT = "no_slot"
    FULL = "full"  # too few tokens are free
    TOO_DEAR = "too_dear"  # beyond the installation's ceiling
    VETOED = "vetoed"  # a plug-in forbids the pairing
    CREDIT = "credit"  # the payer cannot pay
    BUDGET = "budget"  # the parent's budget does not pay for it


@dataclass(frozen=True, kw_only=True, slots=True)
class Price:
    """The parts of an agent's price for one task, in micro-credits and plain factors.

    idle_ub: what the size costs in an idle pool. congestion: cost_ub / idle_ub. price_ub: what
    the router compares, cost_ub with the risk premium f and the quality s in it.
    """

    size: int  # tokens
    k: int
    idle_ub: int
    congestion: float
    cost_ub: int  # what would be paid
    f: float
    s: float
    price_ub: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Opinion:
    """What the router makes of one agent for one task.

    price: None while the size does not fit in what is free. opens_ms: when the router would ask
    again, if capacity or a rest is what keeps the task away.
    """

    agent: Agent
    pool: Pool
    y_mt: int
    obstacles: tuple[Obstacle, ...]
    price: Price | None
    opens_ms: int | None


def opinions(work: Work, board: Board) -> list[Opinion]:
    """What the router makes of every agent on the board, which stays as it is."""
    return [_opinion(work, board, seat) for seat in board.seats.values()]


def first_choice(found: Iterable[Opinion]) -> Opinion | None:
    """The one with the lowest price among those that may have the task; None if none may."""
    free = [(item.price.price_ub, item) for item in found if item.price and not item.obstacles]
    return min(free, key=lambda pair: pair[0])[1] if free else None


def free_mt(agent: Agent, size: int, paid_ub: int) -> int | None:
    """How much was free in an agent's pool when so many tokens cost `paid_ub` there.

    Found by trying: the price only rises as the pool empties. None if no filling has that price
    (the agent's k or y_max is not what it was then).
    """
    low, high = size * MT + 1, agent.y_max * MT
    if low > high or not cost_ub(agent.k, high, size * MT) <= paid_ub:
        return None
    while low < high:  # the lowest filling that costs no more
        middle = (low + high) // 2
        if cost_ub(agent.k, middle, size * MT) <= paid_ub:
            high = middle
        else:
            low = middle + 1
    return low if cost_ub(agent.k, low, size * MT) == paid_ub else None


def _opinion(work: Work, board: Board, seat: Seat) -> Opinion:
    found: list[Obstacle] = []
    order = tuple(Obstacle)
    for index, obstacle in enumerate(order):
        others = (*found, *order[index + 1 :])
        if isinstance(_ask(work, board, seat, others), NoSeat):
            found.append(obstacle)
    return Opinion(
        agent=seat.agent,
        pool=seat.pool,
        y_mt=seat.y_mt,
        obstacles=tuple(found),
        price=_price(work, board, seat, found),
        opens_ms=_opens_ms(work, board, seat, found),
    )


def _price(work: Work, board: Board, seat: Seat, found: Sequence[Obstacle]) -> Price | None:
    if Obstacle.FULL in found or Obstacle.TOO_SMALL in found:
        return None
    asked = _ask(work, board, seat, found)
    # A plug-in may forbid that price, which nobody is offered.
    idle = _ask(work, board, seat, (*found, Obstacle.FULL, Obstacle.VETOED))
    if not (isinstance(asked, Quote) and isinstance(idle, Quote)):
        return None
    return Price(
        size=work.size,
        k=seat.agent.k,
        idle_ub=idle.cost_ub,
        congestion=asked.cost_ub / idle.cost_ub if idle.cost_ub else 1.0,
        cost_ub=asked.cost_ub,
        f=seat.f,
        s=seat.s,
        price_ub=asked.price_ub,
    )


def _opens_ms(work: Work, board: Board, seat: Seat, found: Sequence[Obstacle]) -> int | None:
    passing = {Obstacle.RESTING, Obstacle.NO_SLOT, Obstacle.FULL}
    if not passing & set(found):
        return None
    asked = _ask(work, board, seat, [item for item in found if item not in passing])
    return asked.not_before_ms if isinstance(asked, NoSeat) else None


def _ask(work: Work, board: Board, seat: Seat, removed: Collection[Obstacle]) -> Quote | NoSeat:
    """The router's answer for this agent alone, were these obstacles not there."""
    seats = {seat.agent.id: _freed(work, board, seat, removed)}
    avoided = work.avoid == seat.agent.id and Obstacle.AVOIDED not in removed
    if avoided:
        # The rule looks at who else could take the task, so these stay, without a free slot.
        seats |= {
            name: replace(other, free_slots=0)
            for name, other in board.seats.items()
            if name != seat.agent.id
        }
    alone = Board(
        seats=seats,
        balance_ub=board.balance_ub,
        spendable_ub=(
            {work.payer: UNLIMITED_UB}
            if Obstacle.CREDIT in removed
            else {work.payer: board.spendable_ub[work.payer]}
        ),
        families=board.families,
        routing=(
            replace(board.routing, ceiling=None) if Obstacle.TOO_DEAR in removed else board.routing
        ),
        now_ms=board.now_ms,
        veto=None if Obstacle.VETOED in removed else board.veto,
    )
    asked = _asked(work if avoided else replace(work, avoid=None), removed)
    (answer,) = plan([asked], alone, random.Random(0))
    return answer


def _asked(work: Work, removed: Collection[Obstacle]) -> Work:
    """The task as it would be without these obstacles."""
    if Obstacle.WAITS in removed:
        work = replace(work, chain=())
    if Obstacle.BUDGET in removed:
        work = replace(work, parent=None)
    return work


def _freed(work: Work, board: Board, seat: Seat, removed: Collection[Obstacle]) -> Seat:
    """The seat as it would be without these obstacles."""
    agent = _suited(seat.agent, work.lane, board.families[work.family], removed)
    pool, y_mt, slots = seat.pool, seat.y_mt, seat.free_slots
    if Obstacle.TOO_SMALL in removed and work.size >= agent.y_max:
        agent = replace(agent, y_max=2 * work.size)
        y_mt = agent.y_max * MT
    if Obstacle.RESTING in removed:
        pool = replace(pool, next_available_ms=0)
    if Obstacle.NO_SLOT in removed:
        slots = max(1, slots)
    if Obstacle.FULL in removed:
        y_mt = agent.y_max * MT
    return replace(seat, agent=agent, pool=pool, y_mt=y_mt, free_slots=slots)


def _suited(agent: Agent, lane: str, family: Family, removed: Collection[Obstacle]) -> Agent:
    if Obstacle.SUSPENDED in removed:
        agent = replace(agent, suspended=False)
    if Obstacle.LANE in removed:
        agent = replace(agent, lane=lane)
    if Obstacle.TOOLS in removed:
        agent = replace(agent, tools=agent.tools | family.tools)
    if Obstacle.DOMAIN in removed:
        agent = replace(agent, domains=agent.domains | {family.domain})
    if Obstacle.REGION in removed:
        agent = replace(agent, region=family.region)
    return agent
