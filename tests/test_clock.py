"""A clock that was two hours ahead: nothing it wrote may be waited for (C11)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import Engine

import tasks.reserve
from ledger.model import AttemptKey
from scheduler.judgement import RiskJump, adjust
from scheduler.reservations import Reservations
from tasks.clock import _clock
from tasks.context import Context
from tests import makers

AHEAD_S = 2 * 3600.0
MARGIN_S = 1.0
AGENT = makers.agent(refill_per_s=1.0, cooldown_s=1.0, slots=10)


@pytest.fixture
def right(engine: Engine, reservations: Reservations) -> Context:
    return Context(engine=engine, reservations=reservations, lease_margin_s=MARGIN_S)


@pytest.fixture
def ahead(engine: Engine, reservations: Reservations) -> Context:
    return Context(
        engine=engine,
        reservations=reservations,
        lease_margin_s=MARGIN_S,
        clock=lambda: time.time() + AHEAD_S,
    )


@pytest.fixture
def left_behind(ahead: Context, monkeypatch: pytest.MonkeyPatch) -> tuple[str, AttemptKey]:
    """(a task that waits, one that is reserved), both by the clock that is ahead."""
    makers.install(ahead.engine, ahead.now(), agents=[AGENT])
    (_reserved,) = makers.submit(ahead.engine, ahead.now())
    (key,) = makers.claim(ahead.engine, ahead.now())
    sent: list[Sequence[AttemptKey]] = []
    monkeypatch.setattr(tasks.reserve, "send", lambda _, keys: sent.append(keys))
    tasks.reserve._reserve(ahead, [key])
    assert sent == [[key]], "it got its seat"
    (waits,) = makers.submit(ahead.engine, ahead.now())
    return waits, key


def test_what_waits_may_be_claimed(right: Context, left_behind: tuple[str, AttemptKey]) -> None:
    assert makers.claim(right.engine, right.now()) == []
    _clock(right)
    assert [key.task for key in makers.claim(right.engine, right.now())] == [left_behind[0]]


def test_claims_and_leases_end_in_their_usual_time(
    right: Context, left_behind: tuple[str, AttemptKey]
) -> None:
    _clock(right)
    later = right.now() + timedelta(seconds=5.0 + 2 * MARGIN_S + 1)
    assert left_behind[1].task in {key.task for key in makers.claim(right.engine, later)}
    assert right.reservations.overdue(right.now_ms(), 10) == []
    assert right.reservations.overdue(right.now_ms() + 60_000, 10) == [left_behind[1]]


@pytest.mark.usefixtures("left_behind")
def test_pools_refill_rest_and_forgive_from_now_on(right: Context, ahead: Context) -> None:
    pool, judged = right.reservations.look(["A"])[0]["A"]
    worse = adjust(judged, [RiskJump(delta=5.0)], ahead.registry().routing, ahead.now_ms())
    assert right.reservations.store_judgements({"A": (judged, worse)}) == []
    assert pool.next_available_ms > right.now_ms() + 3_600_000
    before_ms = right.now_ms()
    _clock(right)
    found, now_judged = right.reservations.look(["A"])[0]["A"]
    for at_ms in (found.refilled_at_ms, found.next_available_ms, now_judged.judged_at_ms):
        assert before_ms - 1 <= at_ms <= right.now_ms() + 1
    assert found == replace(
        pool, refilled_at_ms=found.refilled_at_ms, next_available_ms=found.next_available_ms
    )
    assert now_judged.f == worse.f


def test_what_is_only_a_little_ahead_stays(right: Context) -> None:
    makers.install(right.engine, right.now(), agents=[AGENT])
    makers.submit(right.engine, right.now() + timedelta(seconds=29))
    _clock(right)
    assert makers.claim(right.engine, right.now()) == []
