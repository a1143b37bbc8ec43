"""The router: which agent gets each task of a chunk, at what price, or why none does.

Paper section 4, rows M10 and M11. Pure: it plans on a copy of what Redis holds (`Board`); the
reservation script then takes what was planned, or refuses if the pool has moved meanwhile.

Offers are kept sorted by price, one list for each family and size: a task costs what its near-best
offers cost, not what the board holds.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ledger.model import Agent, AttemptKey, Family, Routing, Wait, Work
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
    """Why a task cannot start now, and from when it is worth trying again.

    unseen: an agent that is not on the board could take it, if it has room.
    """

    work: Work
    wait: Wait
    not_before_ms: int
    unseen: bool = False


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

    def price(self, size_mt: int, ceiling: float | None, now_ms: int) -> tuple[int, float] | None:
        """What so much costs here now, in micro-credits, and the effective price that decides;
        None when there is no room: full, at rest, or dearer than `ceiling` times idle."""
        if self.free_slots <= 0 or size_mt >= self.y_mt or self.pool.next_available_ms > now_ms:
            return None
        k = self.agent.k
        cost = cost_ub(k, self.y_mt, size_mt)
        if ceiling is not None and cost > ceiling * cost_ub(k, self.agent.y_max * MT, size_mt):
            return None
        return cost, effective_price(cost, self.f, self.s)


Veto = Callable[[Work, Agent, int], bool]
"""(work, agent, cost_ub) -> True when a plug-in forbids the pairing."""


class Offer(NamedTuple):
    """What a seat with room would cost, and the price that decides. Sorts by that price."""

    price_ub: float
    number: int  # of the seat on its board: offers of one list are never equal
    cost_ub: int
    seat: Seat


@dataclass(kw_only=True, slots=True)
class Offers:
    """What a board has for one lane, family and size.

    seats: whose agent could take the task if it were idle. ranked: an offer of each that has
    room, lowest price first. unseen: agents that are not on the board could take it too.
    """

    size_mt: int
    seats: Mapping[str, Seat]
    unseen: bool
    ranked: list[Offer]
    by_agent: dict[str, Offer]
    told: int = 0  # how much of the board's `taken` these prices know of

    def refresh(self, board: Board) -> None:
        """Price again whoever was taken since."""
        for name in board.taken[self.told :]:
            offer = self.by_agent.pop(name, None)
            if offer is not None:
                del self.ranked[bisect_left(self.ranked, offer)]
                renewed = _offer(self.seats[name], offer.number, self.size_mt, board)
                if renewed is not None:
                    self.by_agent[name] = renewed
                    insort(self.ranked, renewed)
        self.told = len(board.taken)


@dataclass(slots=True)
class Board:
    """Agents at one instant, and what each payer can still spend. Consumed by one plan.

    balance_ub: balance and quota as settled. spendable_ub: the same less what is reserved; it
    falls with each planned task.
    suited: how many agents of the whole fleet could take a task if they were idle; None when the
    board has them all.
    taken: the agents of the planned tasks, in their order.
    budgets_ub: by parent, what its subtasks of this plan may still cost.
    """

    seats: Mapping[str, Seat]
    balance_ub: Mapping[str, int]
    spendable_ub: dict[str, int]
    families: Mapping[str, Family]
    routing: Routing
    now_ms: int
    veto: Veto | None = None
    suited: Callable[[Work], int] | None = None
    taken: list[str] = field(default_factory=list)
    budgets_ub: dict[AttemptKey, int] = field(default_factory=dict)
    _eligible: dict[tuple[str, str], list[Seat]] = field(default_factory=dict)
    _offers: dict[tuple[str, str, int], Offers] = field(default_factory=dict)

    def offers(self, work: Work) -> Offers:
        """What there is for a task of this lane, family and size now."""
        kind = work.lane, work.family, work.size
        found = self._offers.get(kind)
        if found is None:
            found = self._offers[kind] = self._open(work)
        found.refresh(self)
        return found

    def budget_ub(self, work: Work) -> float:
        """What its parent's budget leaves for it; a task without a parent has no such bound."""
        if work.parent is None:
            return math.inf
        return self.budgets_ub.setdefault(work.parent, work.budget_ub - work.outsourced_ub)

    def _open(self, work: Work) -> Offers:
        if (work.lane, work.family) not in self._eligible:
            family = self.families[work.family]
            self._eligible[work.lane, work.family] = [
                seat for seat in self.seats.values() if eligible(seat.agent, work.lane, family)
            ]
        seats = {
            seat.agent.id: seat
            for seat in self._eligible[work.lane, work.family]
            if work.size < seat.agent.y_max
        }
        ranked = [
            offer
            for number, seat in enumerate(seats.values())
            if (offer := _offer(seat, number, work.size * MT, self)) is not None
        ]
        ranked.sort()
        return Offers(
            size_mt=work.size * MT,
            seats=seats,
            unseen=self.suited is not None and self.suited(work) > len(seats),
            ranked=ranked,
            by_agent={offer.seat.agent.id: offer for offer in ranked},
            told=len(self.taken),
        )


def _offer(seat: Seat, number: int, size_mt: int, board: Board) -> Offer | None:
    found = seat.price(size_mt, board.routing.ceiling, board.now_ms)
    return None if found is None else Offer(found[1], number, found[0], seat)


def eligible(agent: Agent, lane: str, family: Family) -> bool:
    """Whether the agent may ever take such a task: its lane, tools, data domain, region."""
    return (
        not agent.suspended
        and agent.lane == lane
        and family.tools <= agent.tools
        and family.domain in agent.domains
        and (not family.region or family.region == agent.region)
    )


def plan(works: Sequence[Work], board: Board, rng: random.Random) -> list[Quote | NoSeat]:
    """Decide each task in turn; every decision raises the price that the next one sees.

    With n tasks no more than the n cheapest agents can matter: a board that has these, and not
    all of the fleet, leads to the same prices (`scheduler.shortlist`).
    """
    return [_place(work, board, rng) for work in works]


def _place(work: Work, board: Board, rng: random.Random) -> Quote | NoSeat:
    offers = board.offers(work)
    # Whoever just failed this task sits out while there is anyone else at all.
    others = len(offers.seats) - sum(name in offers.seats for name in work.chain)
    avoid = work.avoid if others > 1 or offers.unseen else None
    near, room = _near(offers.ranked, work, board, avoid)
    if near:
        prices = [offer.price_ub for offer in near]
        return _take(near[choose(prices, board.routing.epsilon, rng)], work, board)
    if room:
        return NoSeat(
            work=work,
            wait=_lacking(work, board),
            not_before_ms=_pause_until_ms(work, CREDIT_MS, board),
            unseen=offers.unseen,
        )
    return _full(work, offers, avoid, board)


def _lacking(work: Work, board: Board) -> Wait:
    """Which of the two bounds is the narrower one."""
    is_budget = board.budget_ub(work) < board.spendable_ub[work.payer]
    return Wait.BUDGET if is_budget else Wait.CREDIT


def _near(
    ranked: Sequence[Offer], work: Work, board: Board, avoid: str | None
) -> tuple[list[Offer], bool]:
    """What the task may choose from: the lowest price that can be paid for it, and those within
    epsilon of it; and whether anything at all was offered, at whatever cost."""
    spendable = min(board.spendable_ub[work.payer], board.budget_ub(work))
    start, room = 0, False
    while start < len(ranked):
        end = _end(ranked, ranked[start], board)
        offered = _open_to(work, ranked[start:end], board, avoid)
        room = room or bool(offered)
        near = [offer for offer in offered if offer.cost_ub <= spendable]
        if near:
            # The first of the band may not be for this task: its own band reaches further.
            more = _open_to(work, ranked[end : _end(ranked, near[0], board)], board, avoid)
            return near + [offer for offer in more if offer.cost_ub <= spendable], True
        start = end
    return [], room


def _end(ranked: Sequence[Offer], first: Offer, board: Board) -> int:
    """Where the band of near-equal prices that starts with `first` ends."""
    edge = first.price_ub * (1 + board.routing.epsilon)
    return bisect_right(ranked, (edge, math.inf))


def _open_to(
    work: Work, offers: Sequence[Offer], board: Board, avoid: str | None
) -> Sequence[Offer]:
    """Those that neither the task's last failure nor its chain nor a plug-in forbids."""
    if work.chain:
        offers = [offer for offer in offers if offer.seat.agent.id not in work.chain]
    if avoid is not None:
        offers = [offer for offer in offers if offer.seat.agent.id != avoid]
    if board.veto is not None:
        veto = board.veto
        offers = [offer for offer in offers if not veto(work, offer.seat.agent, offer.cost_ub)]
    return offers


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
    board.taken.append(seat.agent.id)
    board.spendable_ub[work.payer] -= offer.cost_ub
    if work.parent is not None:
        board.budgets_ub[work.parent] -= offer.cost_ub
    return quote


CREDIT_MS = 1_000  # a failing attempt may give credit back; what else helps wakes the task
NO_AGENT_MS = 5_000  # a change of the registry helps, and wakes the task
CAPACITY_MS = 100  # a running task may end any moment
CAPACITY_MAX_MS = 800
PAUSE_MAX_MS = 30_000  # no task waits longer than this without being looked at


def _pause_until_ms(work: Work, first_ms: int, board: Board) -> int:
    """Twice as long each time it asks in vain: a client without credit may have a million tasks."""
    return board.now_ms + min(PAUSE_MAX_MS, first_ms << min(work.key.attempt - 1, 10))


def _full(work: Work, offers: Offers, avoid: str | None, board: Board) -> NoSeat:
    """No room now: because everybody rests until a known time, or because all are busy, or
    because there is nobody."""
    # The more often a task has asked, the longer it waits: claims and messages are not free.
    pause_ms = min(CAPACITY_MAX_MS, CAPACITY_MS * (1 + work.key.attempt // 2))
    if offers.unseen:
        # Of those who were not looked at any may be ready: nothing longer can be promised.
        not_before_ms = board.now_ms + pause_ms
        return NoSeat(work=work, wait=Wait.CAPACITY, not_before_ms=not_before_ms, unseen=True)
    seats = [
        seat for name, seat in offers.seats.items() if name != avoid and name not in work.chain
    ]
    if not seats:
        return NoSeat(
            work=work, wait=Wait.NO_AGENT, not_before_ms=_pause_until_ms(work, NO_AGENT_MS, board)
        )
    resting = all(seat.pool.next_available_ms > board.now_ms for seat in seats)
    return NoSeat(
        work=work,
        wait=Wait.COOLDOWN if resting else Wait.CAPACITY,
        not_before_ms=min(
            _opens_ms(seat, work.size * MT, board.now_ms, pause_ms) for seat in seats
        ),
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
