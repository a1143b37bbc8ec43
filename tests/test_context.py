"""The clock that all processes share."""

from __future__ import annotations

import time
from datetime import datetime

import pytest
from sqlalchemy import Engine

from ledger.db import server_time
from ledger.errors import Unavailable
from scheduler.reservations import Reservations
from tasks.context import Context

HOURS_S = 2 * 3600.0


@pytest.mark.parametrize("wrong_s", [-HOURS_S, HOURS_S])
def test_a_host_whose_clock_is_wrong_has_the_time_of_the_server(
    engine: Engine,
    reservations: Reservations,
    monkeypatch: pytest.MonkeyPatch,
    wrong_s: float,
) -> None:
    right = time.time
    monkeypatch.setattr(time, "time", lambda: right() + wrong_s)
    context = Context(engine=engine, reservations=reservations, lease_margin_s=1.0)
    before = server_time(engine)
    found = context.now()
    context.registry()
    after = context.now()
    assert before <= found <= after <= server_time(engine)
    assert abs(context.now_ms() - server_time(engine).timestamp() * 1000) < HOURS_S * 100


def test_the_time_goes_on_without_asking(engine: Engine, reservations: Reservations) -> None:
    context = Context(engine=engine, reservations=reservations, lease_margin_s=1.0)
    first = context.now()
    engine.dispose()
    asked = engine.pool.checkedin()
    assert context.now() > first
    assert engine.pool.checkedin() == asked == 0, "a clock that is read needs no connection"


def test_an_answer_lost_while_starting_leaves_nothing_half_made(
    engine: Engine, reservations: Reservations, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = Context(engine=engine, reservations=reservations, lease_margin_s=1.0)
    with monkeypatch.context() as patch:
        patch.setattr("tasks.context.server_time", _lost)
        with pytest.raises(Unavailable):
            context.registry()
    assert context.hooks.has("on_validate")
    assert 0 <= context.rng.random() < 1


def _lost(_: Engine) -> datetime:
    raise Unavailable("postgresql", "the answer was lost", "again")
