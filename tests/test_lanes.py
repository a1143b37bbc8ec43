"""Lanes in the ledger: one holder at a time, tokens that only grow, nothing accepted from before.

Rows M02, M03, invariant C6.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import psycopg
import pytest
from psycopg.errors import CheckViolation, InsufficientPrivilege
from sqlalchemy import Engine

from ledger import attempts, intake, lanes
from ledger.errors import Conflict, LaneLost, NotFound
from ledger.intake import Tenure
from ledger.lanes import Ask, Ended, Mode
from ledger.model import AttemptKey, Outcome
from ledger.postings import Settled
from ledger.settle import settle
from tests import makers

ALICE = Ask(principal="alice", reason="monthly mint", lease_s=30.0)
BOB = Ask(principal="bob", reason="", lease_s=30.0)


def later(now: datetime, seconds: float) -> datetime:
    return now + timedelta(seconds=seconds)


@pytest.fixture(autouse=True)
def installed(engine: Engine, now: datetime) -> None:
    makers.install(engine, now)


def paid(engine: Engine, key: AttemptKey, now: datetime) -> Settled:
    return settle(engine, [makers.settlement(key)], now=now)[key]


def test_a_lane_without_work_in_flight_is_taken_at_once(engine: Engine, now: datetime) -> None:
    found = lanes.take(engine, "default", ALICE, now)
    assert (found.token, found.mode, found.principal, found.drained) == (
        2,
        Mode.MANUAL,
        "alice",
        True,
    )
    assert found.until == later(now, 30)


def test_a_second_person_is_refused_and_told_who_holds_it(engine: Engine, now: datetime) -> None:
    lanes.take(engine, "default", ALICE, now)
    with pytest.raises(Conflict, match=r"held by alice since .* because: monthly mint"):
        lanes.take(engine, "default", BOB, later(now, 34.9))
    with pytest.raises(Conflict, match="held by alice"):
        lanes.pause(engine, "default", BOB, now)


def test_an_unknown_lane_is_refused(engine: Engine, now: datetime) -> None:
    with pytest.raises(NotFound, match="'mint' is not known"):
        lanes.take(engine, "mint", ALICE, now)
    with pytest.raises(NotFound, match="'mint' is not known"):
        makers.submit(engine, now, lane="mint")


def test_the_system_lane_is_never_given_away(engine: Engine, now: datetime) -> None:
    with pytest.raises(Conflict, match="system is never given away"):
        lanes.take(engine, "system", ALICE, now)
    with pytest.raises(Conflict, match="system is never given away"):
        lanes.pause(engine, "system", ALICE, now)


def test_cron_work_is_held_back_and_drains_before_the_person_begins(
    engine: Engine, now: datetime
) -> None:
    makers.submit(engine, now, count=2)
    (key,) = makers.claim(engine, now, limit=1)
    taken = lanes.take(engine, "default", ALICE, now)
    assert (taken.drained, taken.in_flight) == (False, 1)
    assert makers.claim(engine, now) == [], "nothing new starts while the lane drains"
    assert not lanes.grant(engine, "default", taken.token, now).drained
    assert paid(engine, key, now) is Settled.PAID, "what is in flight may end"
    assert lanes.grant(engine, "default", taken.token, now).drained
    assert makers.claim(engine, now) == [], "the lane is alice's, and she has no batch"
    lanes.release(engine, "default", taken.token, now)
    assert len(makers.claim(engine, now)) == 1


def test_what_was_claimed_under_an_old_token_is_not_accepted(engine: Engine, now: datetime) -> None:
    makers.submit(engine, now)
    (key,) = makers.claim(engine, now)
    taken = lanes.take(engine, "default", ALICE, now)
    assert [work.fenced for work in attempts.works(engine, [key], now)] == [True]
    lanes.grant(engine, "default", taken.token, now, force=True)
    assert paid(engine, key, now) is Settled.FENCED
    failed = makers.failure(key, outcome=Outcome.FENCED, agent=None)
    attempts.abort(engine, [failed], now)
    row = intake.task_row(engine, key.task)
    assert (row["state"], row["failures"], row["losses"]) == ("INIT", 0, 0)
    lanes.release(engine, "default", taken.token, now)
    (again,) = makers.claim(engine, now)
    assert paid(engine, again, now) is Settled.PAID


def test_a_batch_has_its_lane_to_itself(engine: Engine, now: datetime) -> None:
    (before,) = makers.submit(engine, now)
    taken = lanes.take(engine, "default", ALICE, now)
    tenure = Tenure(lane="default", token=taken.token, batch=7)
    item = intake.Submission(family="f", payload=1)
    wrong = Tenure(lane="default", token=1, batch=7)
    with pytest.raises(LaneLost):
        intake.submit(engine, "R", [item], now, wrong)
    (mine,) = intake.submit(engine, "R", [item], now, tenure)
    assert makers.claim(engine, now) == []
    lanes.release(engine, "default", taken.token, now)
    assert [key.task for key in makers.claim(engine, now)] == [before]
    assert mine.task != before


def test_a_lease_ends_and_the_lane_goes_back_to_cron(engine: Engine, now: datetime) -> None:
    taken = lanes.take(engine, "default", ALICE, now)
    lanes.renew(engine, "default", taken.token, later(now, 60), later(now, 29))
    assert lanes.settle_down(engine, later(now, 64)) == []
    late = later(now, 65)
    with pytest.raises(LaneLost, match="the lease of token 2 has ended"):
        lanes.renew(engine, "default", taken.token, later(now, 90), late)
    (back,) = lanes.settle_down(engine, late)
    assert (back.mode, back.token, back.drained) == (Mode.CRON, 3, True)
    with pytest.raises(LaneLost, match="token 2 is no longer valid: beat holds"):
        lanes.release(engine, "default", taken.token, late)
    told = lanes.history(engine, "default")
    assert [(row["token"], row["principal"], row["ended"]) for row in told] == [
        (3, "beat", None),
        (2, "alice", Ended.EXPIRED),
        (1, "beat", Ended.TAKEN),
    ]
    assert told[1]["granted_at"] == now
    assert told[1]["ended_at"] == late


def test_who_gives_up_while_it_drains_never_began(engine: Engine, now: datetime) -> None:
    makers.submit(engine, now)
    (key,) = makers.claim(engine, now)
    taken = lanes.take(engine, "default", ALICE, now)
    lanes.release(engine, "default", taken.token, now)
    mine = next(row for row in lanes.history(engine, "default") if row["token"] == taken.token)
    assert (mine["granted_at"], mine["ended"]) == (None, Ended.WITHDRAWN)
    assert makers.claim(engine, now) == []
    assert paid(engine, key, now) is Settled.PAID
    (back,) = lanes.settle_down(engine, now)
    assert back.drained


def test_the_database_itself_keeps_tokens_growing(engine: Engine, database_url: str) -> None:
    for wrong, error in {
        "UPDATE lane SET token = token - 1, floor = 1": CheckViolation,
        "UPDATE lane SET token = token + 2": CheckViolation,
        "UPDATE lane SET principal = 'eve'": CheckViolation,
        "UPDATE lane SET token = 1, floor = 0, granted_at = NULL": CheckViolation,
        "INSERT INTO lane_tenure (lane, token, mode, principal, reason, asked_at)"
        " VALUES ('default', 9, 'manual', 'eve', '', now())": InsufficientPrivilege,
        "UPDATE lane_tenure SET principal = 'eve'": InsufficientPrivilege,
    }.items():
        with psycopg.connect(database_url) as connection:
            connection.execute("SET ROLE clearlane_app")
            with pytest.raises(error):
                connection.execute(wrong)
