"""`cron.clock`: what a clock that was ahead has left behind is brought back to the present.

All processes share PostgreSQL's clock. When that is set back, instants that were written before
lie further ahead than anything real, and everything would wait for them (C11).
"""

from __future__ import annotations

from celery import shared_task

from ledger import attempts, lanes
from scheduler.router import PAUSE_MAX_MS
from scheduler.standing import Standing
from tasks.call import RETRY_AFTER_MAX_S
from tasks.context import Context, current
from tasks.patience import patient

DOUBT_MS = 30_000  # further ahead than the longest wait by this much: no host is that far off


@shared_task(name="cron.clock")
def clock() -> None:
    """Let nothing wait for an instant that only a wrong clock can have written."""
    _clock(current())


@patient
def _clock(context: Context) -> None:
    registry, now_ms = context.registry(), context.now_ms()
    margin_ms = int(context.lease_margin_s * 1000)
    longest_s = max((family.deadline_s for family in registry.families.values()), default=0.0)
    context.reservations.shorten_leases(now_ms + int(longest_s * 1000) + margin_ms + DOUBT_MS)
    standings, _ = context.reservations.look(list(registry.agents))
    ahead = [
        name
        for name, standing in standings.items()
        if _is_ahead(standing, registry.agents[name].cooldown_s, now_ms)
    ]
    if ahead:
        context.reservations.set_back(ahead, now_ms)
    attempts.set_back(
        context.engine,
        ahead_s=(PAUSE_MAX_MS + DOUBT_MS) / 1000,
        margin_s=2 * context.lease_margin_s,
        now=context.now(),
    )
    lanes.set_back(context.engine, ahead_s=DOUBT_MS / 1000, now=context.now())


def _is_ahead(standing: Standing, cooldown_s: float, now_ms: int) -> bool:
    """Its refill or its rest lies where no clock of today can have put it."""
    pool, judged = standing
    rest_ms = int(max(RETRY_AFTER_MAX_S, cooldown_s) * 1000)
    return (
        max(pool.refilled_at_ms, judged.judged_at_ms) > now_ms + DOUBT_MS
        or pool.next_available_ms > now_ms + rest_ms + DOUBT_MS
    )
