"""The price list: what every agent asks for a task of a given size now. Rows M10, M11."""

from __future__ import annotations

from dataclasses import dataclass

from ledger.errors import NotFound
from ledger.model import Agent, Family
from scheduler.judgement import Judgement
from scheduler.pool import MT, Pool, cost_ub
from scheduler.price import effective_price
from scheduler.router import Seat, eligible
from tasks.context import Context

SIZE_DEFAULT = 100  # tokens


@dataclass(frozen=True, kw_only=True, slots=True)
class PriceRow:
    """One agent. `cost_ub` would be paid, `price_ub` is compared; None: it has no room now.

    y, y_max: free and whole capacity in tokens. k: curve strength. f, s: risk premium, quality.
    state: "open", "full", "resting", "suspended" or "unfit"; `reason` says it in words.
    """

    agent: str
    y: float
    y_max: int
    k: int
    f: float
    s: float
    in_flight: int
    cost_ub: int | None
    price_ub: float | None
    state: str
    reason: str


def price_list(
    context: Context, size: int | None = None, family: str | None = None
) -> list[PriceRow]:
    """Every agent by name, for `size` tokens: the family's if None, or `SIZE_DEFAULT`.

    Raises NotFound for an unknown family, Unavailable when PostgreSQL or Redis is away.
    """
    registry = context.registry()
    wanted = registry.families.get(family) if family is not None else None
    if family is not None and wanted is None:
        raise NotFound("family", f"{family!r} is not known", "add it to the configuration file")
    board, _ = context.reservations.look(list(registry.agents))
    now_ms = context.now_ms()
    rows = []
    for name, agent in registry.agents.items():
        pool, judged = board.get(name, _unseen(agent, now_ms))
        seat = Seat.open(agent, pool, judged, registry.routing, now_ms)
        rows.append(_row(seat, _size(size, wanted), wanted, now_ms))
    return rows


def _unseen(agent: Agent, now_ms: int) -> tuple[Pool, Judgement]:
    """An agent that Redis does not know yet: full and without a record."""
    return Pool(y_mt=agent.y_max * MT, refilled_at_ms=now_ms), Judgement(judged_at_ms=now_ms)


def _size(size: int | None, family: Family | None) -> int:
    if size is not None:
        return size
    return SIZE_DEFAULT if family is None else family.size


def _row(seat: Seat, size: int, family: Family | None, now_ms: int) -> PriceRow:
    agent = seat.agent
    fits = size * MT < seat.y_mt
    cost = cost_ub(agent.k, seat.y_mt, size * MT) if fits else None
    state, reason = _state(seat, size, family, now_ms)
    return PriceRow(
        agent=agent.id,
        y=seat.y_mt / MT,
        y_max=agent.y_max,
        k=agent.k,
        f=seat.f,
        s=seat.s,
        in_flight=seat.pool.in_flight,
        cost_ub=cost,
        price_ub=None if cost is None else effective_price(cost, seat.f, seat.s),
        state=state,
        reason=reason,
    )


def _state(seat: Seat, size: int, family: Family | None, now_ms: int) -> tuple[str, str]:
    agent = seat.agent
    if agent.suspended:
        return "suspended", "taken out of routing"
    if family is not None and not eligible(agent, family):
        return "unfit", f"lacks the tools, data domain or region that {family.id} needs"
    rest_ms = seat.pool.next_available_ms - now_ms
    if rest_ms > 0:
        return "resting", f"opens in {rest_ms / 1000:.1f} s"
    if seat.free_slots <= 0:
        return "full", f"all {agent.slots} slots are taken"
    if size * MT >= seat.y_mt:
        return "full", f"{seat.y_mt / MT:g} tokens are free, the task needs more than that"
    return "open", ""
