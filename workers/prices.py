"""The price list: what each agent asks for a task now, and whether it would take it.

The router's own pure functions on the same facts; nothing is reserved. Rows M10, M11.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from ledger import snapshots
from ledger.errors import BadInput, NotFound
from ledger.intake import SIZE_MAX
from ledger.model import Agent, Family
from ledger.registry import Registry
from scheduler.judgement import Judgement
from scheduler.pool import MT, Pool, cost_ub
from scheduler.price import effective_price
from scheduler.router import Seat, eligible
from scheduler.snapshot import decode_snapshot
from scheduler.standing import Standing
from tasks.context import Context

SIZE_DEFAULT = 100  # tokens


@dataclass(frozen=True, kw_only=True, slots=True)
class PriceRow:
    """One agent's offer. `cost_ub` and `price_ub` are None when the size does not fit in `y`.

    state: "open", or why not: "suspended", "unfit" (the family's constraints), "resting" or
    "full"; `reason` says it in words, empty when open.
    """

    agent: str
    y: float  # free capacity, tokens
    y_max: int  # tokens
    k: int
    f: float
    s: float
    in_flight: int
    cost_ub: int | None  # what would be paid
    price_ub: float | None  # what the router compares
    state: str
    reason: str


def price_list(
    context: Context, size: int | None = None, family: str | None = None
) -> list[PriceRow]:
    """Every agent's offer for a task of `size` tokens, by agent.

    Without a size the family's own counts, without either 100 tokens. Raises NotFound for an
    unknown family, BadInput for an impossible size, Unavailable.
    """
    registry = context.registry()
    wanted = _family(registry, family)
    if size is None:
        size = wanted.size if wanted else SIZE_DEFAULT
    if not 0 < size <= SIZE_MAX:
        raise BadInput("size", f"{size} is not possible", f"use 1 to {SIZE_MAX} tokens")
    now_ms = context.now_ms()
    standings = standings_of(context, registry, now_ms)
    return [
        _row(Seat.open(agent, *standings[name], registry.routing, now_ms), size, wanted, now_ms)
        for name, agent in registry.agents.items()
    ]


def _family(registry: Registry, name: str | None) -> Family | None:
    if name is None:
        return None
    if name not in registry.families:
        known = ", ".join(sorted(registry.families)) or "none"
        raise NotFound("family", f"{name!r} is not known", f"use one of those there are: {known}")
    return registry.families[name]


def standings_of(context: Context, registry: Registry, now_ms: int) -> dict[str, Standing]:
    """Each agent's pool and judgement; one without a pool as its first reservation will find it."""
    found, _ = context.reservations.look(list(registry.agents))
    missing = registry.agents.keys() - found.keys()
    known = snapshots.load(context.engine) if missing else {}
    for name in missing:
        rests_ms, judged = 0, Judgement(judged_at_ms=now_ms)
        if name in known:
            pool, judged = decode_snapshot(known[name])
            rests_ms = pool.next_available_ms
        full_mt = registry.agents[name].y_max * MT
        found[name] = (
            Pool(y_mt=full_mt, refilled_at_ms=now_ms, next_available_ms=rests_ms),
            judged,
        )
    return found


def _row(seat: Seat, size: int, family: Family | None, now_ms: int) -> PriceRow:
    agent, size_mt = seat.agent, size * MT
    cost = cost_ub(agent.k, seat.y_mt, size_mt) if size_mt < seat.y_mt else None
    state, reason = _state(seat, size_mt, family, now_ms)
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


def _state(  # noqa: PLR0911 - one reason each
    seat: Seat, size_mt: int, family: Family | None, now_ms: int
) -> tuple[str, str]:
    """Whether the router would consider this seat, and if not, the first reason against it."""
    agent, rests_ms = seat.agent, seat.pool.next_available_ms - now_ms
    if agent.suspended:
        return "suspended", "taken out of routing"
    if family is not None and not eligible(agent, agent.lane, family):
        return "unfit", _unfit(agent, family)
    if rests_ms > 0:
        return "resting", f"takes nothing for {ceil(rests_ms / 100) / 10:g} s"
    if seat.free_slots <= 0:
        return "full", f"all of its {agent.slots} slots are taken"
    if size_mt < seat.y_mt:
        return "open", ""
    if size_mt < agent.y_max * MT:
        return "full", f"only {seat.y_mt / MT:g} tokens are free"
    return "full", f"it has {agent.y_max} tokens when idle, and never gives its last"


def _unfit(agent: Agent, family: Family) -> str:
    lacking = sorted(family.tools - agent.tools)
    if lacking:
        return f"lacks the tool {', '.join(lacking)}"
    if family.domain not in agent.domains:
        return f"may not see data of the domain {family.domain}"
    return f"is not in the region {family.region}"
