from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import psycopg
import pytest
from sqlalchemy import Engine

from ledger import attempts, intake
from ledger.attempts import LOSSES_MAX, Waiting
from ledger.db import BY_INDEX, CLAIM_LOCK, ENDED, READY, sql
from ledger.listen import Listener
from ledger.model import AttemptKey, Outcome, Wait
from tests.makers import as_owner, claim, failure, family, install, jump, submit

LONG = timedelta(seconds=100)  # longer than any claim here


@pytest.fixture(autouse=True)
def _installed(engine: Engine, now: datetime) -> None:
    install(engine, now)


def row(engine: Engine, task: str) -> dict[str, Any]:
    return intake.task_row(engine, task)


def ms(instant: datetime) -> int:
    return int(instant.timestamp() * 1000)


def test_claims_come_first_in_first_out(engine: Engine, now: datetime) -> None:
    old = submit(engine, now - timedelta(seconds=2), 3)
    new = submit(engine, now - timedelta(seconds=1), 300)
    keys = claim(engine, now, limit=4)
    assert [key.task for key in keys] == [*old, new[0]]
    assert [key.task for key in claim(engine, now)] == new[1:]
    assert {key.attempt for key in keys} == {1}


def test_a_claim_lasts_for_deadline_and_margin(engine: Engine, now: datetime) -> None:
    (task,) = submit(engine, now)
    (key,) = claim(engine, now, margin_s=2.0)
    assert row(engine, task)["ready_at"] == now + timedelta(seconds=7)
    assert claim(engine, now + timedelta(seconds=6.9)) == []
    assert claim(engine, now + timedelta(seconds=7)) == [AttemptKey(task, 2)]
    assert attempts.works(engine, [key], now) == []


def test_a_claim_never_exceeds_what_the_fleet_holds(engine: Engine, now: datetime) -> None:
    submit(engine, now, 20)
    assert len(claim(engine, now, hold=7)) == 7
    assert claim(engine, now, hold=7) == []
    assert len(claim(engine, now, hold=9, limit=10)) == 2
    assert claim(engine, now, hold=0) == []


def test_one_dispatcher_claims_at_a_time(engine: Engine, database_url: str, now: datetime) -> None:
    """Two that count the same room would fill it twice; who comes second gets nothing."""
    tasks = submit(engine, now, 3)
    with psycopg.connect(database_url) as claiming:
        claiming.execute("SELECT pg_advisory_xact_lock(%s)", [CLAIM_LOCK])
        assert claim(engine, now) == []
    assert [key.task for key in claim(engine, now)] == tasks


def test_many_dispatchers_never_claim_the_same_task(engine: Engine, now: datetime) -> None:
    tasks = submit(engine, now, 40)
    found: list[AttemptKey] = []

    def run() -> None:
        for _ in range(15):
            found.extend(claim(engine, now, limit=3))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found += claim(engine, now)  # each of them may have stood aside
    assert sorted(found) == [AttemptKey(task, 1) for task in sorted(tasks)]


# Stands between a claim and its lock: whoever asks for it waits for lock 1 first.
GATE = """
CREATE FUNCTION public.pg_try_advisory_xact_lock(key bigint) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_lock(1);
    PERFORM pg_advisory_unlock(1);
    RETURN pg_catalog.pg_try_advisory_xact_lock(key);
END $$
"""
AT_THE_GATE = """
SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
   AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


def test_the_room_is_counted_under_the_lock(
    engine: Engine, database_url: str, now: datetime
) -> None:
    """Another dispatcher's claim ends between the start of this one and its lock."""
    submit(engine, now, 10)
    name = database_url.rsplit("/", 1)[1]
    as_owner(database_url, GATE, f"ALTER DATABASE {name} SET search_path = public, pg_catalog")
    engine.dispose()
    with (
        ThreadPoolExecutor(1) as pool,
        psycopg.connect(database_url, autocommit=True) as gate,
    ):
        gate.execute("SELECT pg_advisory_lock(1)")
        late = pool.submit(claim, engine, now, hold=5)
        while gate.execute(AT_THE_GATE).fetchone() == (0,) and not late.done():
            pass
        as_owner(
            database_url,
            "UPDATE task SET attempt = 1, wait = 'attempt', ready_at = now() + interval '1 hour'"
            " WHERE id IN (SELECT id FROM task ORDER BY ready_at, id LIMIT 5)",
        )
        gate.execute("SELECT pg_advisory_unlock(1)")
        assert late.result() == []


def lose(engine: Engine, key: AttemptKey, at: datetime, reason: str = "gone") -> None:
    attempts.abort(engine, [failure(key, agent=None, outcome=Outcome.LOST, reason=reason)], at)


def test_a_task_that_lost_its_worker_travels_alone(engine: Engine, now: datetime) -> None:
    (task, other) = submit(engine, now, 2)
    lose(engine, next(key for key in claim(engine, now) if key.task == task), now)
    found = attempts.claim(engine, limit=10, hold={"default": 10}, margin_s=1.0, now=now + LONG)
    assert {item.key.task: item.alone for item in found} == {task: True, other: False}
    assert row(engine, task)["losses"] == 1


def test_a_claim_that_ended_is_no_loss(engine: Engine, now: datetime) -> None:
    """Nobody took the message: that says nothing about the task."""
    (task,) = submit(engine, now)
    for number in range(LOSSES_MAX + 2):
        late = now + number * LONG
        found = attempts.claim(engine, limit=10, hold={"default": 10}, margin_s=1.0, now=late)
        assert [(item.key.attempt, item.alone) for item in found] == [(number + 1, False)]
    assert (row(engine, task)["losses"], row(engine, task)["state"]) == (0, "INIT")


def test_work_of_a_claim_that_ended_is_left_alone(engine: Engine, now: datetime) -> None:
    """Its next claim may be under way: two attempts of a task must not both be reserved."""
    submit(engine, now)
    (key,) = claim(engine, now, margin_s=1.0)
    assert attempts.works(engine, [key], now + timedelta(seconds=5.9)) != []
    assert attempts.works(engine, [key], now + timedelta(seconds=6)) == []


def test_a_waiting_task_that_is_claimed_lost_nothing(engine: Engine, now: datetime) -> None:
    (task,) = submit(engine, now)
    (key,) = claim(engine, now)
    attempts.put_back(engine, [Waiting(key, Wait.CAPACITY, ms(now))])
    found = attempts.claim(engine, limit=10, hold={"default": 10}, margin_s=1.0, now=now + LONG)
    assert [item.alone for item in found] == [False]
    assert row(engine, task)["losses"] == 0


def test_poison_is_quarantined_and_its_neighbour_goes_on(
    engine: Engine, database_url: str, now: datetime
) -> None:
    (task,) = submit(engine, now)
    for _ in range(LOSSES_MAX - 1):
        (key,) = claim(engine, now)
        lose(engine, key, now)
    assert row(engine, task)["state"] == "INIT"
    (last,) = claim(engine, now)
    (other,) = submit(engine, now)
    (neighbour,) = claim(engine, now)
    with Listener(database_url, ENDED) as listener:
        attempts.abort(
            engine,
            [
                failure(last, agent=None, outcome=Outcome.LOST, reason="its worker is gone"),
                failure(neighbour, agent=None, outcome=Outcome.LOST, reason="its worker is gone"),
            ],
            now,
        )
        assert [json.loads(payload) for _, payload in listener.wait(60)] == [[task]]
    found = row(engine, task)
    assert (found["state"], found["losses"], found["failures"], found["wait"]) == (
        "QUARANTINED", LOSSES_MAX, 0, None,
    )  # fmt: skip
    assert (found["reason"], found["ended_at"]) == ("its worker is gone", now)
    assert len(found["attempts"]) == LOSSES_MAX
    assert [key.task for key in claim(engine, now + LONG)] == [other]


def test_an_attempt_that_nobody_began_counts_as_nothing(engine: Engine, now: datetime) -> None:
    """It neither failed nor lost anyone: however often that happens, the task is tried again."""
    install(engine, now, families=[family("once", max_attempts=1)])
    (task,) = submit(engine, now, to="once")
    for _ in range(LOSSES_MAX + 1):
        (key,) = claim(engine, now)
        unstarted = failure(key, agent=None, outcome=Outcome.UNSTARTED, reason="nobody came")
        attempts.abort(engine, [unstarted], now)
    found = row(engine, task)
    assert (found["state"], found["failures"], found["losses"]) == ("INIT", 0, 0)
    assert {item["outcome"] for item in found["attempts"]} == {"unstarted"}


def test_a_loss_does_not_forget_whom_to_avoid(engine: Engine, now: datetime) -> None:
    (task,) = submit(engine, now)
    (key,) = claim(engine, now)
    attempts.abort(engine, [failure(key, agent="A")], now)
    (key,) = claim(engine, now)
    lose(engine, key, now)
    assert row(engine, task)["avoid"] == "A"


def test_put_back_needs_the_attempt_in_charge(engine: Engine, now: datetime) -> None:
    (task,) = submit(engine, now)
    (old,) = claim(engine, now)
    (new,) = claim(engine, now + LONG)
    attempts.put_back(engine, [Waiting(old, Wait.CREDIT, ms(now))])
    assert row(engine, task)["wait"] == "attempt"
    again = now + 2 * LONG
    attempts.put_back(engine, [Waiting(new, Wait.CREDIT, ms(again))])
    attempts.put_back(engine, [Waiting(new, Wait.CAPACITY, ms(now))])
    found = row(engine, task)
    assert found["wait"] == "credit"
    assert abs(found["ready_at"] - again) < timedelta(milliseconds=1)
    assert claim(engine, again - timedelta(seconds=1)) == []
    assert attempts.next_ready(engine, now) == found["ready_at"]


def test_an_abort_is_recorded_once(engine: Engine, database_url: str, now: datetime) -> None:
    (task,) = submit(engine, now)
    (key,) = claim(engine, now)
    failed = failure(key, latency_s=0.5, penalty=jump((0.0, 5.0), (1.0, 0.7)))
    with Listener(database_url, READY) as listener:
        attempts.abort(engine, [failed], now)
        assert listener.wait(60)[0][0] == READY
    attempts.abort(engine, [failed], now + LONG)
    found = row(engine, task)
    assert (found["state"], found["wait"], found["failures"], found["avoid"]) == (
        "INIT", "dispatch", 1, "A",
    )  # fmt: skip
    (record,) = found["attempts"]
    assert (record["state"], record["f_after"], record["s_after"]) == ("ABORTED", 5.0, 0.7)
    (again,) = claim(engine, now)
    assert [item.avoid for item in attempts.works(engine, [again], now)] == ["A"]


def test_a_late_abort_is_kept_but_moves_nothing(engine: Engine, now: datetime) -> None:
    (task,) = submit(engine, now)
    (old,) = claim(engine, now)
    claim(engine, now + LONG)
    attempts.abort(engine, [failure(old)], now + LONG)
    found = row(engine, task)
    assert (found["wait"], found["attempt"], found["failures"]) == ("attempt", 2, 0)
    assert [record["attempt"] for record in found["attempts"]] == [1]


def test_the_last_failure_quarantines(engine: Engine, database_url: str, now: datetime) -> None:
    install(engine, now, families=[family("twice", max_attempts=2)])
    (task,) = submit(engine, now, to="twice")
    attempts.abort(engine, [failure(key) for key in claim(engine, now)], now)
    with Listener(database_url, ENDED) as listener:
        attempts.abort(engine, [failure(key) for key in claim(engine, now)], now)
        assert [json.loads(payload) for _, payload in listener.wait(60)] == [[task]]
    found = row(engine, task)
    assert (found["state"], found["reason"], found["wait"]) == ("QUARANTINED", "not JSON", None)
    assert claim(engine, now + LONG) == []


def test_losses_are_no_failures(engine: Engine, now: datetime) -> None:
    install(engine, now, families=[family("once", max_attempts=1)])
    (task,) = submit(engine, now, to="once")
    (key,) = claim(engine, now)
    attempts.abort(engine, [failure(key, agent=None, outcome=Outcome.LOST)], now)
    found = row(engine, task)
    assert (found["state"], found["failures"], found["losses"], found["avoid"]) == (
        "INIT", 0, 1, None,
    )  # fmt: skip


def test_an_expired_task_is_never_claimed(engine: Engine, now: datetime) -> None:
    soon = now + timedelta(seconds=1)
    (task,) = submit(engine, now, expires_at=soon)
    (key,) = claim(engine, now)
    assert attempts.works(engine, [key], now) != []
    assert attempts.works(engine, [key], soon) == []
    assert claim(engine, now + LONG) == []
    assert attempts.expire(engine, limit=10, now=now) == 0
    assert attempts.expire(engine, limit=10, now=soon) == 1
    assert attempts.expire(engine, limit=10, now=soon) == 0
    assert row(engine, task)["state"] == "EXPIRED"


def test_expiry_respects_its_limit(engine: Engine, now: datetime) -> None:
    submit(engine, now, 5, expires_at=now)
    assert [attempts.expire(engine, limit=3, now=now) for _ in range(3)] == [3, 2, 0]


def test_a_sweep_can_expire_more_than_a_notification_holds(
    engine: Engine, database_url: str, now: datetime
) -> None:
    tasks = submit(engine, now, 300, expires_at=now)
    with Listener(database_url, ENDED) as listener:
        assert attempts.expire(engine, limit=1000, now=now) == 300
        told: list[str] = []
        while len(told) < 300:
            heard = listener.wait(60)
            assert heard, f"only {len(told)} were told"
            told += [task for _, payload in heard for task in json.loads(payload)]
    assert sorted(told) == sorted(tasks)


def test_a_step_can_end_more_than_a_notification_holds(engine: Engine, now: datetime) -> None:
    install(engine, now, families=[family("once", max_attempts=1)])
    submit(engine, now, 300, to="once")
    attempts.abort(engine, [failure(key) for key in claim(engine, now)], now)
    assert intake.task_list(engine, state="INIT") == []


def test_works_and_payloads_of_what_is_in_charge(engine: Engine, now: datetime) -> None:
    install(engine, now, clients=[])
    tasks = submit(engine, now, 2, size=7)
    keys = claim(engine, now)
    found = attempts.works(engine, [*keys, AttemptKey(tasks[0], 2)], now)
    assert {item.key for item in found} == set(keys)
    assert {(item.payer, item.size, item.avoid) for item in found} == {("client:R", 7, None)}
    assert attempts.payloads(engine, tasks) == {tasks[0]: {"n": 0}, tasks[1]: {"n": 1}}
    intake.cancel(engine, tasks[0], now)
    assert attempts.payloads(engine, tasks, now) == {tasks[1]: {"n": 1}}
    assert [item.key.task for item in attempts.works(engine, keys, now)] == [tasks[1]]
    assert attempts.spendable_ub(engine, ["client:R", "client:nobody"]) == {
        "client:R": 2_000_000_000
    }


# More work than the fleet can do ------------------------------------------------------------------


def after(now: datetime, seconds: float) -> datetime:
    return now + timedelta(seconds=seconds)


def claimed(engine: Engine, now: datetime, limit: int) -> list[str]:
    return [key.task for key in claim(engine, now, limit=limit)]


def test_what_has_expired_holds_no_room(engine: Engine, now: datetime) -> None:
    """Nobody works for it any more, whether or not the sweeper has been there."""
    submit(engine, now, 5, expires_at=after(now, 1))
    assert len(claim(engine, now, hold=5)) == 5
    waiting = submit(engine, now, 5)
    assert claim(engine, now, hold=5) == []
    assert [key.task for key in claim(engine, after(now, 1), hold=5)] == waiting


def test_late_tasks_get_the_seats_that_nobody_else_wants(engine: Engine, now: datetime) -> None:
    """Less is left than a call may take (5 s), and more than half is gone."""
    (late,) = submit(engine, after(now, -8), expires_at=after(now, 2))
    (later,) = submit(engine, after(now, -8), expires_at=after(now, 1))
    (fresh,) = submit(engine, after(now, -7), expires_at=after(now, 8))
    (patient,) = submit(engine, after(now, -6))
    assert [claimed(engine, now, 1) for _ in range(5)] == [
        [patient], [fresh], [late], [later], []
    ]  # fmt: skip


def test_a_short_life_is_not_late_in_its_first_half(engine: Engine, now: datetime) -> None:
    """However long a call may take: who wants an answer soon must not always come last."""
    (brief,) = submit(engine, after(now, -1), expires_at=after(now, 1))
    (patient,) = submit(engine, after(now, -0.5))
    assert [claimed(engine, now, 1) for _ in range(2)] == [[brief], [patient]]
    (brief,) = submit(engine, after(now, -1), expires_at=after(now, 0.9))
    (patient,) = submit(engine, after(now, -0.5))
    assert [claimed(engine, now, 1) for _ in range(2)] == [[patient], [brief]]


@pytest.mark.parametrize("left_s", [-1, 1])
def test_who_is_late_or_expired_does_not_stand_in_the_way(
    engine: Engine, now: datetime, left_s: float
) -> None:
    """Their number does not matter: the other end of the line is as near."""
    old = submit(engine, after(now, -8), 50, expires_at=after(now, left_s))
    new = submit(engine, after(now, -1), 10, expires_at=after(now, 9))
    assert [claimed(engine, now, 5) for _ in range(2)] == [new[5:], new[:5]]
    rest = [task for _ in range(12) for task in claimed(engine, now, 5)]
    assert sorted(rest) == (sorted(old) if left_s > 0 else [])


@pytest.mark.parametrize("left_s", [-1, 1, None])
def test_a_claim_reads_as_many_rows_as_it_has_seats(
    engine: Engine, database_url: str, now: datetime, left_s: float | None
) -> None:
    expires_at = None if left_s is None else after(now, left_s)
    submit(engine, after(now, -8), 500, expires_at=expires_at)
    submit(engine, after(now, -8), 500, expires_at=expires_at)
    values = {"limit": 7, "lanes": ["default"], "holds": [100], "margin_s": 1.0, "now": now}
    with psycopg.connect(database_url, options=f"-c timezone=UTC {BY_INDEX}") as connection:
        connection.execute("ANALYZE task")
        connection.execute(sql("claim_lock"), {"lock": CLAIM_LOCK})
        found = connection.execute(
            "EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) " + sql("claim"), values
        ).fetchone()
    assert found is not None
    read = [
        (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"]
        for node in nodes(found[0][0]["Plan"])
        if node.get("Index Name") == "task_ready"
    ]
    assert [rows for rows in read if rows] == ([7, 7] if left_s is not None else [7])


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)
