"""Cooldown windows are used when they open; a lane slows down when its agents say 429 (M27)."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
from sqlalchemy import Engine

from ledger.attempts import Claim
from ledger.model import AttemptKey
from scheduler.judgement import Judgement
from scheduler.pool import MT, Pool
from scheduler.reservations import (
    EASE_MS,
    GAP_MAX_MS,
    GAP_MS,
    SAME_MS,
    Reservations,
    Taken,
)
from tasks.context import Context
from tests.makers import agent, install, work
from tests.test_reservations import NOW_MS, quote, reserve
from workers.dispatcher import HOLD_AGE_S, Dispatcher, seats

MINT = {"lane": "mint"}


def start(at: Reservations, number: int, now_ms: int) -> Taken:
    """Try to start one attempt in lane mint."""
    key = AttemptKey(f"t{number}", 1)
    found = at.look(["A"])[0]["A"][0]
    planned = quote(agent(**MINT), found, key, now_ms=now_ms)
    planned = type(planned)(
        **{name: getattr(planned, name) for name in planned.__slots__}
        | {"work": work(f"t{number}", key=key, fence=1, **MINT)}
    )
    return reserve(at, planned, now_ms=now_ms)[0]


@pytest.fixture
def at(reservations: Reservations) -> Reservations:
    reservations.seed([agent(**MINT)], {}, NOW_MS)
    return reservations


def test_a_slow_lane_starts_one_attempt_at_a_time(at: Reservations) -> None:
    at.slow(["mint"], NOW_MS)
    assert start(at, 1, NOW_MS) is Taken.PACED
    soon = NOW_MS + GAP_MS
    assert [start(at, number, soon) for number in (1, 2)] == [Taken.OK, Taken.PACED]
    assert start(at, 2, soon + GAP_MS) is Taken.OK


def test_other_lanes_go_on(at: Reservations) -> None:
    at.slow(["other"], NOW_MS)
    assert [start(at, number, NOW_MS) for number in (1, 2)] == [Taken.OK] * 2


def test_each_further_word_doubles_the_gap_and_silence_halves_it(at: Reservations) -> None:
    at.slow(["mint"], NOW_MS)
    at.slow(["mint"], NOW_MS + SAME_MS - 1)  # called before the first word came
    assert at.paces(["mint"], NOW_MS) == {"mint": NOW_MS + GAP_MS}
    at.slow(["mint"], NOW_MS + SAME_MS)
    last = NOW_MS + SAME_MS
    assert at.paces(["mint"], last) == {"mint": last + 2 * GAP_MS}
    assert start(at, 1, last + 2 * GAP_MS) is Taken.OK
    assert at.paces(["mint"], last + EASE_MS) == {"mint": last + 4 * GAP_MS}
    assert at.paces(["mint"], last + 2 * EASE_MS) == {}
    assert [start(at, number, last + 2 * EASE_MS) for number in (2, 3)] == [Taken.OK] * 2


def test_the_gap_has_an_end(at: Reservations) -> None:
    for number in range(40):
        at.slow(["mint"], NOW_MS + number * SAME_MS)
    assert at.paces(["mint"], NOW_MS) == {"mint": NOW_MS + 39 * SAME_MS + GAP_MAX_MS}


def test_slowing_down_leaves_the_token_alone(at: Reservations) -> None:
    at.fence({"mint": 2})
    at.slow(["mint"], NOW_MS)
    assert start(at, 1, NOW_MS + GAP_MS) is Taken.FENCED


@pytest.mark.parametrize(
    ("of_agent", "of_pool", "count"),
    [
        ({}, {}, 4),
        ({"cooldown_s": 60.0}, {}, 1),
        ({"cooldown_s": 60.0}, {"in_flight": 2}, 3),
        ({"cooldown_s": 60.0}, {"in_flight": 4}, 4),
        ({"cooldown_s": 60.0}, {"in_flight": 1, "next_available_ms": NOW_MS + 1}, 1),
        ({"suspended": True}, {"in_flight": 1}, 0),
    ],
)
def test_one_start_in_each_window(
    of_agent: dict[str, Any], of_pool: dict[str, Any], count: int
) -> None:
    pool = Pool(y_mt=1000 * MT, refilled_at_ms=NOW_MS, **of_pool)
    assert seats(agent(slots=4, **of_agent), pool, 100, NOW_MS) == count


def test_the_dispatcher_wakes_when_the_earliest_window_opens(
    engine: Engine, reservations: Reservations, now: datetime
) -> None:
    agents = [agent(name, cooldown_s=600.0, lane="mint") for name in ("A", "B")]
    install(engine, now, agents=agents)
    now_ms = int(now.timestamp() * 1000)
    clock = {"s": now.timestamp()}
    context = Context(
        engine=engine, reservations=reservations, lease_margin_s=1.0, clock=lambda: clock["s"]
    )
    opens = {"A": now_ms + 700, "B": now_ms + 300}
    known = {
        name: (Pool(y_mt=0, refilled_at_ms=0, next_available_ms=at), Judgement())
        for name, at in opens.items()
    }
    reservations.seed(agents, known, now_ms)
    loop = Dispatcher(context, lambda: 0)
    loop._refresh_hold()
    assert loop._hold == {"mint": 0}
    assert loop._pause_s(now) == pytest.approx(0.3)
    clock["s"] += 0.3
    assert loop._opened()
    loop._refresh_hold()
    assert loop._hold == {"mint": 1}
    assert loop._pause_s(now) == pytest.approx(0.4)
    # The start that was given away does not come back when its task ends.
    loop._spend([Claim(AttemptKey("t", 1), alone=False, lane="mint")])
    assert loop._hold == {"mint": 0}


def test_the_dispatcher_looks_again_while_an_agent_is_called(
    engine: Engine, reservations: Reservations, now: datetime
) -> None:
    """When it may be called again is known only when it answers."""
    cool = agent("A", cooldown_s=600.0, lane="mint")
    install(engine, now, agents=[cool, agent("B", lane="mint2")])
    now_ms = int(now.timestamp() * 1000)
    context = Context(
        engine=engine, reservations=reservations, lease_margin_s=1.0, clock=now.timestamp
    )
    reservations.seed([cool], {}, now_ms)
    pool = reservations.look(["A"])[0]["A"][0]
    planned = quote(cool, pool, AttemptKey("t1", 1), now_ms=now_ms)
    assert reserve(reservations, planned, now_ms=now_ms) == [Taken.OK]
    loop = Dispatcher(context, lambda: 0)
    assert loop._count(context.registry())["mint"] == 0
    assert loop._pause_s(now) == pytest.approx(HOLD_AGE_S)


def test_the_dispatcher_gives_a_slow_lane_one_task_at_a_time(
    engine: Engine, reservations: Reservations, now: datetime
) -> None:
    agents = [agent("A", lane="mint"), agent("B", lane="mint"), agent("C")]
    install(engine, now, agents=agents)
    now_ms = int(now.timestamp() * 1000)
    clock = {"s": now.timestamp()}
    context = Context(
        engine=engine, reservations=reservations, lease_margin_s=1.0, clock=lambda: clock["s"]
    )
    reservations.seed(agents, {}, now_ms)
    reservations.slow(["mint"], now_ms)
    loop = Dispatcher(context, lambda: 0)
    assert loop._count(context.registry()) == {"mint": 0, "default": 9}
    clock["s"] += GAP_MS / 1000
    assert loop._count(context.registry()) == {"mint": 1, "default": 9}
