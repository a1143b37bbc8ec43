"""The shadow pool of an agent: how much capacity is left, and what taking some of it costs.

Paper section 3, row M10. Pure: integers in, integers out. Capacity is counted in milli-tokens
(`_mt`) so that refill by the millisecond stays exact: `refill_per_s` tokens per second are as
many milli-tokens per millisecond.
"""

from __future__ import annotations

from dataclasses import dataclass

from ledger.errors import InvariantBroken
from ledger.model import Agent

MT = 1_000  # milli-tokens in a token
UB = 1_000_000  # micro-credits in a B


@dataclass(frozen=True, kw_only=True, slots=True)
class Pool:
    """What Redis holds of an agent's capacity.

    y_mt: free capacity as of `refilled_at_ms`; below zero when the pool was made smaller than what
    is taken. in_flight: reservations not yet released.
    next_available_ms: no reservation before this instant (cooldown, Retry-After).
    last_action_ms: the last reservation, 0 if none. y_max_mt: its size as Redis knows it.
    """

    y_mt: int
    refilled_at_ms: int
    in_flight: int = 0
    next_available_ms: int = 0
    last_action_ms: int = 0
    y_max_mt: int = 0


def refill_mt(pool: Pool, agent: Agent, now_ms: int) -> int:
    """Capacity that has come back by time alone since the pool was last refilled."""
    elapsed_ms = max(0, now_ms - pool.refilled_at_ms)
    room_mt = max(0, agent.y_max * MT - pool.y_mt)
    return min(room_mt, agent.refill_per_s * elapsed_ms)


def gives_back(agent: Agent) -> bool:
    """Whether a task returns its capacity when it ends.

    A pool has one way to fill: a rate limit refills by time, a concurrency limit is given back.
    """
    return agent.refill_per_s == 0


def cost_ub(k: int, y_mt: int, size_mt: int) -> int:
    """Price of taking `size_mt` out of `y_mt`: k/(y-size) - k/y in micro-credits, floored.

    Raises InvariantBroken unless 0 < size_mt < y_mt: at y = size the price is infinite, so a
    pool is never drained to zero.
    """
    if not 0 < size_mt < y_mt:
        raise InvariantBroken(f"cost of {size_mt} mt out of {y_mt} mt")
    return k * UB * MT * size_mt // (y_mt * (y_mt - size_mt))
