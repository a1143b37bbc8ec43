"""What the router makes of an agent, in words and numbers for people and for programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from ledger.db import instant
from ledger.model import Agent, Json
from ledger.money import show_b
from scheduler.explain import Obstacle, Opinion, Price, free_mt
from scheduler.pool import MT


def words_of(item: Opinion, first: Opinion | None, now: datetime) -> str:
    """One agent on one line: what keeps the task from it, or its price beside the lowest one."""
    if item.obstacles:
        reasons = ", ".join(reason(item, obstacle, now) for obstacle in item.obstacles)
        return f"{item.agent.id} is out ({reasons})"
    if item.price is None or first is None or first.price is None:
        return f"{item.agent.id} has room"
    place = "is the first choice" if item is first else _dearer(item.price, first)
    return f"{item.agent.id} {place} ({price_words(item.price)})"


def _dearer(price: Price, first: Opinion) -> str:
    lowest = first.price.price_ub if first.price else 0.0
    times = f"{price.price_ub / lowest:.3g} × " if lowest else ""
    return f"has {times}the price of {first.agent.id}"


def price_words(price: Price) -> str:
    """105.263157 B for 100 tokens = 105.263157 idle × 1 congestion; risk 0, quality 1: 105.26 B."""
    return (
        f"{show_b(price.cost_ub)} B = {show_b(price.idle_ub)} B for {price.size} tokens when idle "
        f"(k {price.k}) × {price.congestion:.4g} congestion; "
        f"price with risk f {price.f:.3g} and quality s {price.s:.3g}: "
        f"{show_b(round(price.price_ub))} B"
    )


def reason(item: Opinion, obstacle: Obstacle, now: datetime) -> str:
    """One obstacle with its numbers."""
    match obstacle:
        case Obstacle.RESTING:
            return _rests(item, now)
        case Obstacle.FULL:
            return _full(item, now)
        case Obstacle.CREDIT if item.price is not None:
            return f"too dear for whoever pays: {show_b(item.price.cost_ub)} B"
        case Obstacle.BUDGET if item.price is not None:
            return f"too dear for its parent's budget: {show_b(item.price.cost_ub)} B"
        case Obstacle.TOO_DEAR if item.price is not None:
            return f"above the price ceiling: {item.price.congestion:.3g} × its price when idle"
        case _:
            return WORDS[obstacle].format(agent=item.agent)


WORDS: Mapping[Obstacle, str] = {
    Obstacle.SUSPENDED: "suspended; `clearlane agents resume {agent.id}` takes it back",
    Obstacle.LANE: "works in lane {agent.lane} alone",
    Obstacle.TOOLS: "lacks a tool that the family needs",
    Obstacle.DOMAIN: "may not see data of the family's domain",
    Obstacle.REGION: "is not in the family's region",
    Obstacle.WAITS: "waits for it: this is a part of its own task",
    Obstacle.AVOIDED: "failed this task last, and somebody else can take it",
    Obstacle.TOO_SMALL: "too small: {agent.y_max} tokens when idle, and it never gives its last",
    Obstacle.NO_SLOT: "all of its {agent.slots} slots are taken",
    Obstacle.TOO_DEAR: "above the price ceiling",
    Obstacle.VETOED: "vetoed by a plug-in (before_task)",
    Obstacle.CREDIT: "too dear for whoever pays",
    Obstacle.BUDGET: "too dear for what is left of its parent's budget",
}


def _rests(item: Opinion, now: datetime) -> str:
    at = instant(item.pool.next_available_ms)
    return f"rests for {(at - now).total_seconds():.1f} s, until {at:%H:%M:%S}Z"


def _full(item: Opinion, now: datetime) -> str:
    free = f"{item.y_mt / MT:g} of {item.agent.y_max} tokens are free"
    if not item.agent.refill_per_s:
        return f"{free}; more come back when a task ends"
    if item.opens_ms is None:
        return f"{free}; {item.agent.refill_per_s} a second come back"
    wait_s = (instant(item.opens_ms) - now).total_seconds()
    return f"{free}; at {item.agent.refill_per_s} a second there are enough in {wait_s:.1f} s"


def counted(some: Iterable[Opinion]) -> str:
    """How many agents stand in which situation, by the first obstacle of each."""
    counts = Counter(str(i.obstacles[0]) if i.obstacles else "open" for i in some)
    return ", ".join(f"{count} {state}" for state, count in counts.most_common())


def rows(some: Sequence[Opinion], first: Opinion | None, now: datetime) -> list[dict[str, Any]]:
    """Each agent as a row: `agent, choice, obstacles, words` and the parts of its price."""
    return [
        {
            "agent": item.agent.id,
            "choice": "out" if item.obstacles else "first" if item is first else "dearer",
            "obstacles": list(map(str, item.obstacles)),
            "words": words_of(item, first, now),
            "y": item.y_mt / MT,
            "y_max": item.agent.y_max,
            "in_flight": item.pool.in_flight,
            **_parts(item.price),
        }
        for item in some
    ]


def _parts(price: Price | None) -> dict[str, Any]:
    names = ("idle_ub", "congestion", "cost_ub", "f", "s", "price_ub")
    return {name: getattr(price, name) if price else None for name in names}


def paid_price(agent: Agent | None, size: int, attempt: Mapping[str, Json]) -> str | None:
    """Why an ended attempt cost what it did, as far as the record says; None without an agent.

    Risk and quality are on record for failures alone: a settlement does not need them.
    """
    if attempt["agent"] is None:
        return None
    said = f"{show_b(attempt['cost_ub'])} B for {size} tokens"
    free = None if agent is None else free_mt(agent, size, attempt["cost_ub"])
    if agent is not None and free is not None:
        said += f": {free / MT:g} of its {agent.y_max} tokens were free (k {agent.k})"
    if attempt["f_before"] is not None:
        said += f"; risk f {attempt['f_before']:.3g}, quality s {attempt['s_before']:.3g}"
    return said
