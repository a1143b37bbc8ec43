"""The router: which agent gets each task of a chunk, at what price, or why none does.

Paper section 4, rows M10 and M11. Pure: it plans on a copy of what Redis holds (`Board`); the
reservation script then takes what was planned, or refuses if the pool has moved meanwhile.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ledger.model import Agent, Family, Routing, Wait, Work
from scheduler.judgement import Judgement, premium
from scheduler.pool import MT, Pool, cost_ub, refill_mt
from scheduler.price import choose, effective_price


@dataclass(frozen=True, kw_only=True, slots=True)
class Quote:
    """A planned reservation. `y_seen_mt` is the free capacity the price was computed from."""

    work: Work
    agent: Agent
    size_mt: int
    cost_ub: int
    price_ub: float
    y_seen_mt: int
    refill_mt: int  # to be credited if nobody has refilled since `refilled_seen_ms`
    refilled_seen_ms: int


@dataclass(frozen=True, kw_only=True, slots=True)
class NoSeat:
    """Why a task cannot start now, and from when it is worth trying again."""

    work: Work
    wait: Wait
    not_before_ms: int


@dataclass(slots=True)
class Seat:
    """One agent while a chunk is planned: what is free, falling with each planned task."""

    agent: Agent
    pool: Pool
    refill_mt: int
    y_mt: int
    free_slots: int
    f: float
    s: float

    @classmethod
    def open(
        cls, agent: Agent, pool: Pool, judgement: Judgement, routing: Routing, now_ms: int
    ) -> Seat:
        """The agent as it stands at `now_ms`."""
        refill = refill_mt(pool, agent, now_ms)
        return cls(
            agent=agent,
            pool=pool,
            refill_mt=refill,
            y_mt=min(agent.y_max * MT, pool.y_mt + refill),
            free_slots=agent.slots - pool.in_flight,
            f=premium(judgement, routing, now_ms),
            s=judgement.s,
        )


Veto = Callable[[Work, Agent, int], bool]
"""(work, agent, cost_ub) -> True when a plug-in forbids the pairing."""


@dataclass(slots=True)
class Board:
    """All agents at one instant, and what each client can still spend. Consumed by one plan.

    balance_ub: balance and quota as settled. spendable_ub: the same less what is reserved; it
    falls with each planned task.
    """

    seats: Mapping[str, Seat]
    balance_ub: Mapping[str, int]
    spendable_ub: dict[str, int]
    families: Mapping[str, Family]
    routing: Routing
    now_ms: int
    veto: Veto | None = None
    _matches: dict[tuple[str, int], list[Seat]] = field(default_factory=dict)

    def matching(self, work: Work) -> list[Seat]:
        """Seats whose agent could take the task if it were idle."""
        found = self._matches.get((work.family, work.size))
        if found is None:
            family = self.families[work.family]
            found = [
                seat
                for seat in self.seats.values()
                if work.size < seat.agent.y_max and eligible(seat.agent, family)
            ]
            self._matches[work.family, work.size] = found
        return found


def eligible(agent: Agent, family: Family) -> bool:
    """Whether the agent may ever take a task of this family (tools, data domain, region)."""
    return (
        not agent.suspended
        and family.tools <= agent.tools
        and family.domain in agent.domains
        and (not family.region or family.region == agent.region)
    )


def plan(works: Sequence[Work], board: Board, rng: random.Random) -> list[Quote | NoSeat]:
    """Decide each task in turn; every decision raises the price that the next one sees."""
    return [_place(work, board, rng) for work in works]


def _place(work: Work, board: Board, rng: random.Random) -> Quote | NoSeat:
    seats = board.matching(work)
    if work.avoid is not None and len(seats) > 1:
        # Whoever just failed this task sits out while there is anyone else at all.
        seats = [seat for seat in seats if seat.agent.id != work.avoid]
    if not seats:
        return NoSeat(
            work=work, wait=Wait.NO_AGENT, not_before_ms=_pause_until_ms(work, NO_AGENT_MS, board)
        )
    offers = _offers(seats, work, board)
    if not offers:
        return _full(work, seats, board.now_ms)
    spendable = board.spendable_ub[work.client]
    affordable = [offer for offer in offers if offer.cost_ub <= spendable]
    if not affordable:
        return NoSeat(
            work=work, wait=Wait.CREDIT, not_before_ms=_pause_until_ms(work, CREDIT_MS, board)
        )
    prices = [offer.price_ub for offer in affordable]
    return _take(affordable[choose(prices, board.routing.epsilon, rng)], work, board)


class Offer(NamedTuple):
    """A seat with room, what it would cost, and the price that decides."""

    seat: Seat
    cost_ub: int
    price_ub: float


def _offers(seats: Sequence[Seat], work: Work, board: Board) -> list[Offer]:
    """Every seat that has room for this task now."""
    size_mt = work.size * MT
    ceiling = board.routing.ceiling
    found: list[Offer] = []
    for seat in seats:
        if seat.free_slots <= 0 or size_mt >= seat.y_mt:
            continue
        if seat.pool.next_available_ms > board.now_ms:
            continue
        cost = cost_ub(seat.agent.k, seat.y_mt, size_mt)
        if ceiling is not None and cost > ceiling * _idle_cost_ub(seat, size_mt):
            continue
        if board.veto is None or not board.veto(work, seat.agent, cost):
            found.append(Offer(seat, cost, effective_price(cost, seat.f, seat.s)))
    return found


def _idle_cost_ub(seat: Seat, size_mt: int) -> int:
    return cost_ub(seat.agent.k, seat.agent.y_max * MT, size_mt)


def _take(offer: Offer, work: Work, board: Board) -> Quote:
    seat, size_mt = offer.seat, work.size * MT
    quote = Quote(
        work=work,
        agent=seat.agent,
        size_mt=size_mt,
        cost_ub=offer.cost_ub,
        price_ub=offer.price_ub,
        y_seen_mt=seat.y_mt,
        refill_mt=seat.refill_mt,
        refilled_seen_ms=seat.pool.refilled_at_ms,
    )
    seat.y_mt -= size_mt
    # With a cooldown one start closes the window for everyone else in the chunk too.
    seat.free_slots = 0 if seat.agent.cooldown_s else seat.free_slots - 1
    board.spendable_ub[work.client] -= offer.cost_ub
    return quote


CREDIT_MS = 1_000  # a failing attempt may give credit back; what else helps wakes the task
NO_AGENT_MS = 5_000  # a change of the registry helps, and wakes the task
CAPACITY_MS = 100  # a running task may end any moment
CAPACITY_MAX_MS = 800
PAUSE_MAX_MS = 30_000  # no task waits longer than this without being looked at


def _pause_until_ms(work: Work, first_ms: int, board: Board) -> int:
    """Twice as long each time it asks in vain: a client without credit may have a million tasks."""
    return board.now_ms + min(PAUSE_MAX_MS, first_ms << min(work.key.attempt - 1, 10))


def _full(work: Work, seats: Sequence[Seat], now_ms: int) -> NoSeat:
    """No room now: because everybody rests until a known time, or because all are busy."""
    # The more often a task has asked, the longer it waits: claims and messages are not free.
    pause_ms = min(CAPACITY_MAX_MS, CAPACITY_MS * (1 + work.key.attempt // 2))
    opens_ms = min(_opens_ms(seat, work.size * MT, now_ms, pause_ms) for seat in seats)
    resting = all(seat.pool.next_available_ms > now_ms for seat in seats)
    return NoSeat(
        work=work, wait=Wait.COOLDOWN if resting else Wait.CAPACITY, not_before_ms=opens_ms
    )


def _opens_ms(seat: Seat, size_mt: int, now_ms: int, pause_ms: int) -> int:
    """When this seat is worth asking again."""
    if seat.pool.next_available_ms > now_ms:
        return min(seat.pool.next_available_ms, now_ms + PAUSE_MAX_MS)
    short_mt = size_mt + 1 - seat.y_mt
    if short_mt > 0 and seat.agent.refill_per_s:
        refill_ms = math.ceil(short_mt / seat.agent.refill_per_s)
        return now_ms + min(PAUSE_MAX_MS, max(pause_ms, refill_ms))
    return now_ms + pause_ms
