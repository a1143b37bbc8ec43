"""Holding a lane by hand: the commands, as people call them, and the holder's side in a process.

Rows M02, M03.
"""

from __future__ import annotations

import signal
import subprocess
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine

from ledger import db, lanes
from ledger.errors import BadInput, Conflict, LaneLost
from ledger.lanes import Ask, Mode
from ledger.settle import settle
from scheduler.connection import connect as connect_redis
from scheduler.reservations import Reservations
from tasks.context import Context
from tests import makers
from tests.program import Said, begun, said
from tests.stack import await_true
from workers import holding
from workers.cli.lanes import seconds_until
from workers.holding import Holding, drained, given_back
from workers.interrupts import Interrupts

HOUR_S = 3600.0


class Program:
    """The commands on this test's servers."""

    def __init__(self, database_url: str, redis_url: str) -> None:
        self._env = {"DATABASE_URL": database_url, "REDIS_URL": redis_url}

    def __call__(self, *words: str) -> Said:
        return said(self._env, *words)

    def started(self, *words: str) -> AbstractContextManager[subprocess.Popen[str]]:
        return begun(self._env, *words)


@pytest.fixture
def program(database_url: str, redis_url: str, engine: Engine, now: datetime) -> Program:
    makers.install(engine, now)
    return Program(database_url, redis_url)


def asked(**values: Any) -> Ask:
    return Ask(**{"principal": "alice", "reason": "mint", "lease_s": 30.0, **values})


def in_redis(context: Context) -> int:
    found = context.reservations._redis.hget("lane:default", "token")
    return int(str(found or 0))


def test_a_lane_is_locked_listed_and_released(program: Program) -> None:
    locked = program("lanes", "lock", "default", "--reason", "audit", "--as", "alice", "--json")
    assert locked.code == 0, locked.err
    assert set(locked.json) == {"lane", "token", "until"}
    assert (locked.json["lane"], locked.json["token"]) == ("default", 2)
    left = datetime.fromisoformat(locked.json["until"]) - datetime.now(UTC)
    assert left <= timedelta(minutes=30)

    (row,) = [row for row in program("lanes", "list", "--json").json if row["lane"] == "default"]
    assert (row["mode"], row["principal"], row["reason"]) == ("manual", "alice", "audit")
    assert row["until"] == locked.json["until"]

    refused = program("lanes", "lock", "default", "--reason", "mine", "--as", "bob")
    assert (refused.code, refused.out) == (5, "")
    assert "default is held by alice since 20" in refused.err
    assert "because: audit" in refused.err

    stolen = program("lanes", "release", "default", "--as", "bob")
    assert stolen.code == 5
    assert "held by alice since 20" in stolen.err
    assert "not by bob" in stolen.err

    old = program("lanes", "release", "default", "--as", "alice", "--token", "1")
    assert old.code == 4
    assert "token 1 is no longer valid: alice holds the lane" in old.err

    back = program("lanes", "release", "default", "--as", "alice", "--json")
    assert (back.code, back.json) == (0, {"lane": "default", "token": 3, "drained": True})
    again = program("lanes", "release", "default", "--as", "alice")
    assert again.code == 5
    assert "nobody holds default" in again.err

    told = program("lanes", "history", "default", "--json").json
    assert [(row["token"], row["principal"], row["mode"], row["ended"]) for row in told] == [
        (3, "beat", "cron", None),
        (2, "alice", "manual", "released"),
        (1, "beat", "cron", "taken"),
    ]
    assert set(told[0]) == {
        "lane", "token", "mode", "principal", "reason", "asked_at", "from", "to", "ended",
    }  # fmt: skip
    shown = program("lanes", "show", "default", "--json").json
    assert shown["history"] == told
    assert shown["mode"] == "cron"


def test_a_paused_lane_has_no_end(program: Program, engine: Engine) -> None:
    locked = program(
        "lanes", "lock", "default", "--pause", "--reason", "quiet", "--as", "alice", "--json"
    )
    assert locked.json == {"lane": "default", "token": 2, "until": None}
    assert lanes.lane(engine, "default", datetime.now(UTC)).mode is Mode.PAUSED
    refused = program("lanes", "release", "default", "--as", "bob")
    assert refused.code == 5
    assert "paused by alice" in refused.err
    assert program("lanes", "release", "default", "--as", "alice").code == 0


def test_what_is_no_request_is_refused(program: Program, engine: Engine) -> None:
    for words, wrong in {
        ("lock", "default"): "--reason: it is missing",
        ("lock", "default", "--reason", " "): "--reason: it says nothing",
        ("lock", "default", "--reason", "x", "--as", "\x1b"): "--as: that is no name",
        ("lock", "default", "--reason", "x", "--until", "soon"): "--until: 'soon' is no time",
        ("lock", "default", "--reason", "x", "--pause", "--until", "1h"): "a paused lane has no",
        ("lock", "nowhere", "--reason", "x"): "'nowhere' is not known",
        ("show", "nowhere"): "'nowhere' is not known",
        ("history", "nowhere"): "'nowhere' is not known",
        ("release", "nowhere"): "'nowhere' is not known",
    }.items():
        said = program("lanes", *words)
        assert (said.code, said.out) == (2, ""), words
        assert wrong in said.err
        assert said.err.count("\n") == 1
    system = program("lanes", "lock", "system", "--reason", "x")
    assert system.code == 5
    assert "system is never given away" in system.err
    assert lanes.lane(engine, "default", datetime.now(UTC)).token == 1


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("30m", 1800), ("1.5h", 5400), ("2d", 172_800), ("2026-01-01T01:00Z", 3600)],
)
def test_how_long_is_read(text: str, seconds: float) -> None:
    assert seconds_until(text, datetime(2026, 1, 1, tzinfo=UTC)) == seconds


@pytest.mark.parametrize(
    "text", ["", "30", "m", "-5m", "0s", "8d", "2025-12-31T00:00Z", "2026-01-01T01:00", "1e3h"]
)
def test_how_long_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="--until"):
        seconds_until(text, datetime(2026, 1, 1, tzinfo=UTC))


def test_the_command_waits_for_what_is_in_flight(
    program: Program, engine: Engine, now: datetime
) -> None:
    makers.submit(engine, now)
    (key,) = makers.claim(engine, now, margin_s=HOUR_S)
    with program.started("lanes", "lock", "default", "--reason", "x", "--as", "alice") as process:
        assert process.stderr is not None
        assert "waiting for 1 tasks in flight in lane default" in process.stderr.readline()
        assert process.poll() is None
        settle(engine, [makers.settlement(key)], now=now)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
    assert "default is held until" in out
    assert lanes.lane(engine, "default", now).drained


def test_who_stops_waiting_never_held_the_lane(
    program: Program, engine: Engine, now: datetime
) -> None:
    makers.submit(engine, now)
    makers.claim(engine, now, margin_s=HOUR_S)
    with program.started("lanes", "lock", "default", "--reason", "x", "--as", "alice") as process:
        assert process.stderr is not None
        assert "waiting for 1" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 130
    assert "default was given back" in err
    late = program("lanes", "lock", "default", "--reason", "x", "--timeout", "0.1")
    assert late.code == 5
    assert "has not drained within 0.1 s: 1 tasks" in late.err
    ended = [row["ended"] for row in lanes.history(engine, "default") if row["mode"] == "manual"]
    assert ended == ["withdrawn", "withdrawn"]


def test_redis_learns_of_every_change(context: Context, now: datetime) -> None:
    makers.install(context.engine, now)
    taken = lanes.take(context.engine, "default", asked(), now)
    with Holding(context, taken, lease_s=30.0) as hold:
        assert in_redis(context) == taken.token
        hold.check()
    assert in_redis(context) == taken.token + 1
    assert lanes.lane(context.engine, "default", now).mode is Mode.CRON


def test_that_redis_is_away_keeps_nobody_from_the_ledger(engine: Engine, now: datetime) -> None:
    makers.install(engine, now)
    nowhere = Reservations(connect_redis("redis://127.0.0.1:1/0"))
    context = Context(engine=engine, reservations=nowhere, lease_margin_s=1.0)
    with Holding(context, lanes.take(engine, "default", asked(), now), lease_s=30.0):
        pass
    assert lanes.lane(engine, "default", now).mode is Mode.CRON


def held(context: Context, now: datetime) -> Holding:
    taken = lanes.take(context.engine, "default", asked(), now)
    return Holding(context, taken, lease_s=30.0)


def lost(hold: Holding) -> LaneLost | None:
    try:
        hold.check()
    except LaneLost as error:
        return error
    return None


def test_a_holder_keeps_its_lease_and_hears_when_it_is_lost(
    context: Context, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holding, "RENEWALS", 1000)
    makers.install(context.engine, now)
    with held(context, now) as hold:
        before = lanes.lane(context.engine, "default", now).until
        assert before is not None

        def renewed() -> bool:
            until = lanes.lane(context.engine, "default", now).until
            return until is not None and until > before

        await_true("the lease is renewed", renewed)
        hold.check()
        lanes.release(context.engine, "default", hold.token, context.now())
        error = await_true("the holder hears of it", lambda: lost(hold))
        assert "token 2 is no longer valid: beat holds the lane" in str(error)
    assert lanes.lane(context.engine, "default", now).token == 3, "nothing was given back twice"


def test_a_lease_that_cannot_be_renewed_ends(
    context: Context, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holding, "RENEWALS", 1000)
    makers.install(context.engine, now)
    clock = [now.timestamp()]
    alone = Context(
        engine=db.connect("postgresql+psycopg://nobody@127.0.0.1:1/none"),
        reservations=context.reservations,
        lease_margin_s=1.0,
        clock=lambda: clock[0],
    )
    taken = lanes.take(context.engine, "default", asked(), now)
    with Holding(alone, taken, lease_s=30.0) as hold:
        hold.check()
        clock[0] += 31
        error = await_true("the holder gives up", lambda: lost(hold))
        assert "could not be renewed in time" in str(error)


def test_draining_tells_how_far_it_is(context: Context, now: datetime) -> None:
    engine = context.engine
    makers.install(engine, now)
    makers.submit(engine, now, count=2)
    keys = makers.claim(engine, now, margin_s=HOUR_S)
    taken = lanes.take(engine, "default", asked(), now)
    seen: list[int] = []

    def one_more(_: float) -> None:
        settle(engine, [makers.settlement(keys.pop())], now=now)

    found = drained(context, taken, tell=lambda lane: seen.append(lane.in_flight), pause=one_more)
    assert seen == [2, 1]
    assert found.drained
    with pytest.raises(LaneLost):
        given_back(context, "default", 1)
    with pytest.raises(Conflict, match="held by alice"):
        lanes.take(engine, "default", asked(principal="bob"), now)


def test_ctrl_c_is_counted() -> None:
    with Interrupts() as interrupts:
        signal.raise_signal(signal.SIGINT)
        interrupts.wait(HOUR_S)
        assert interrupts.count == 1
        signal.raise_signal(signal.SIGTERM)
        interrupts.wait(HOUR_S)
        assert interrupts.count == 2
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
