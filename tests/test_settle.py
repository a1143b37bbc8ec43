from __future__ import annotations

import json
import random
import threading
from datetime import datetime, timedelta

import pytest
from sqlalchemy import Engine

from ledger import attempts, check, intake, leaves
from ledger.attempts import Waiting
from ledger.db import ENDED
from ledger.listen import Listener
from ledger.model import AttemptKey, Wait
from ledger.postings import Settled
from ledger.proof.replay import State, TaskSet
from ledger.settle import settle
from tests.makers import (
    UB,
    agent,
    balance_ub,
    claim,
    client,
    failure,
    install,
    settlement,
    submit,
)  # fmt: skip

LATER = timedelta(seconds=100)


@pytest.fixture(autouse=True)
def _installed(engine: Engine, now: datetime) -> None:
    install(engine, now, clients=[client(), client("poor", mint_b=15, quota_ub=5 * UB)])


def claimed(engine: Engine, now: datetime, count: int = 1, by: str = "R") -> list[AttemptKey]:
    submit(engine, now, count, by=by)
    return claim(engine, now)


def test_a_payment_moves_client_agent_and_burn(
    engine: Engine, database_url: str, now: datetime
) -> None:
    (key,) = claimed(engine, now)
    with Listener(database_url, ENDED) as listener:
        found = settle(engine, [settlement(key, cost_ub=111_111_111)], now=now)
        assert [json.loads(payload) for _, payload in listener.wait(60)] == [[key.task]]
    assert found == {key: Settled.PAID}
    assert balance_ub(engine, "client:R") == 1_888_888_889
    assert balance_ub(engine, "agent:A") == 110_000_000
    assert balance_ub(engine, "system:burn") == 1_111_111
    row = intake.task_row(engine, key.task)
    assert (row["state"], row["agent"], row["cost_ub"], row["output"], row["ended_at"]) == (
        "COMMITTED", "A", 111_111_111, {"ok": True}, now,
    )  # fmt: skip
    assert [item["state"] for item in row["attempts"]] == ["COMMITTED"]
    assert check.violations(engine) == []


def test_what_burns_is_what_the_log_says_at_that_moment(engine: Engine, now: datetime) -> None:
    """However old the registry is that a worker has in mind."""
    one, other = claimed(engine, now, 2)
    settle(engine, [settlement(one, cost_ub=100)], now=now)
    install(engine, now, params={"tau_ppm": 500_000})
    settle(engine, [settlement(other, cost_ub=100)], now=now)
    assert balance_ub(engine, "system:burn") == 1 + 50
    state = State(TaskSet())
    for index, leaf in enumerate(leaves.entries(engine, 0, 10**9)):
        state.apply(index, leaf)


def test_settling_twice_pays_once(engine: Engine, now: datetime) -> None:
    (key,) = claimed(engine, now)
    paid = [settle(engine, [settlement(key)] * 2, now=now)[key] for _ in range(3)]
    assert paid == [Settled.PAID, Settled.ALREADY, Settled.ALREADY]
    assert balance_ub(engine, "client:R") == 1990 * UB
    assert check.totals(engine)["settlements"] == 1


def test_of_an_attempt_offered_twice_the_first_counts(engine: Engine, now: datetime) -> None:
    (key,) = claimed(engine, now)
    both = [settlement(key, cost_ub=7), settlement(key, cost_ub=9)]
    assert settle(engine, both, now=now) == {key: Settled.PAID}
    assert intake.task_row(engine, key.task)["cost_ub"] == 7
    assert balance_ub(engine, "client:R") == 2000 * UB - 7
    assert check.violations(engine) == []


def test_plans_made_while_tables_were_small_find_rows_by_key(engine: Engine, now: datetime) -> None:
    """A session keeps its plans: one that scans would cost more with every task there ever was."""
    keys = claimed(engine, now, 1000)
    chunks = [keys[start : start + 10] for start in range(0, 200, 10)]
    settle(engine, [settlement(key) for key in chunks[0]], now=now)
    before = scans(engine)
    for chunk in chunks[1:]:
        settle(engine, [settlement(key) for key in chunk], now=now)
    assert scans(engine) == before


def scans(engine: Engine) -> dict[str, int]:
    """Sequential scans so far of the tables that grow with every settlement."""
    with engine.connect() as connection:
        connection.exec_driver_sql("SELECT pg_stat_force_next_flush()")
        connection.commit()
        rows = connection.exec_driver_sql(
            "SELECT relname, seq_scan FROM pg_stat_user_tables WHERE relname IN "
            "('task', 'task_result', 'attempt', 'ledger_transaction', 'posting')"
        ).all()
    assert len(rows) == 5
    return {row.relname: row.seq_scan for row in rows}


def test_answers_as_large_as_they_may_be_are_settled_together(
    engine: Engine, now: datetime
) -> None:
    done = [settlement(key, output="x" * (1 << 20)) for key in claimed(engine, now, 48)]
    outcomes = settle(engine, done, now=now)
    assert set(outcomes.values()) == {Settled.PAID}
    assert len(outcomes) == len(done)


def test_only_the_attempt_in_charge_is_paid(engine: Engine, now: datetime) -> None:
    (old,) = claimed(engine, now)
    (new,) = claim(engine, now + LATER)
    both = [settlement(old), settlement(new)]
    assert settle(engine, both, now=now) == {old: Settled.STALE, new: Settled.PAID}
    assert settle(engine, both[:1], now=now) == {old: Settled.STALE}
    assert balance_ub(engine, "client:R") == 1990 * UB


def test_a_task_that_ended_otherwise_is_not_paid(engine: Engine, now: datetime) -> None:
    cancelled, waits = claimed(engine, now, 2)
    intake.cancel(engine, cancelled.task, now)
    attempts.abort(engine, [failure(waits)], now)
    unknown = AttemptKey("00000000-0000-7000-8000-000000000000", 1)
    found = settle(engine, [settlement(key) for key in (cancelled, unknown)], now=now)
    assert set(found.values()) == {Settled.STALE}
    assert balance_ub(engine, "client:R") == 2000 * UB


def test_an_aborted_attempt_is_not_paid(engine: Engine, now: datetime) -> None:
    (key,) = claimed(engine, now)
    attempts.abort(engine, [failure(key)], now)
    assert settle(engine, [settlement(key)], now=now) == {key: Settled.STALE}


def test_an_attempt_that_was_put_back_is_not_paid(engine: Engine, now: datetime) -> None:
    (key,) = claimed(engine, now)
    attempts.put_back(engine, [Waiting(key, Wait.CAPACITY, int(now.timestamp() * 1000))])
    assert settle(engine, [settlement(key)], now=now) == {key: Settled.STALE}
    assert balance_ub(engine, "client:R") == 2000 * UB


def test_more_can_be_settled_at_once_than_a_notification_holds(
    engine: Engine, database_url: str, now: datetime
) -> None:
    keys = claimed(engine, now, 250)
    with Listener(database_url, ENDED) as listener:
        chunk = [settlement(key, cost_ub=1) for key in keys]
        assert set(settle(engine, chunk, now=now).values()) == {Settled.PAID}
        told: list[str] = []
        while len(told) < 250:
            heard = listener.wait(60)
            assert heard, f"only {len(told)} were told"
            told += [task for _, payload in heard for task in json.loads(payload)]
    assert sorted(told) == sorted(key.task for key in keys)


def test_a_client_without_credit_never_blocks_its_neighbour(engine: Engine, now: datetime) -> None:
    poor = claimed(engine, now, 3, by="poor")
    (rich,) = claimed(engine, now)
    asked = [settlement(key, payer="client:poor") for key in poor] + [settlement(rich)]
    found = settle(engine, asked, now=now)
    assert [found[key] for key in poor] == [Settled.PAID, Settled.PAID, Settled.NO_CREDIT]
    assert found[rich] is Settled.PAID
    assert balance_ub(engine, "client:poor") == -5 * UB
    assert intake.task_row(engine, poor[2].task)["state"] == "INIT"
    assert check.violations(engine) == []


def test_a_free_task_is_settled_without_postings(engine: Engine, now: datetime) -> None:
    (key,) = claimed(engine, now)
    assert settle(engine, [settlement(key, cost_ub=0)], now=now)[key] is Settled.PAID
    assert check.violations(engine) == []
    assert settle(engine, [], now=now) == {}


def test_many_committers_at_once_pay_each_task_once(engine: Engine, now: datetime) -> None:
    """One hot client; every chunk is offered three times, in different orders."""
    keys = claimed(engine, now, 96)
    chunks = [keys[start : start + 8] for start in range(0, 96, 8)] * 3
    rng = random.Random(7)
    outcomes: list[Settled] = []
    broken: list[BaseException] = []

    def run(mine: list[list[AttemptKey]]) -> None:
        try:
            for chunk in mine:
                items = [settlement(key) for key in rng.sample(chunk, len(chunk))]
                outcomes.extend(settle(engine, items, now=now).values())
        except BaseException as error:
            broken.append(error)

    rng.shuffle(chunks)
    threads = [threading.Thread(target=run, args=(chunks[n::6],)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert broken == []
    assert outcomes.count(Settled.PAID) == 96
    assert outcomes.count(Settled.ALREADY) == 192
    assert balance_ub(engine, "client:R") == (2000 - 960) * UB
    assert check.violations(engine) == []


def test_a_thousand_payments_of_ten_burn_a_hundred(engine: Engine, now: datetime) -> None:
    install(engine, now, clients=[client("W", mint_b=10_000)], agents=[agent("W")])
    keys = claimed(engine, now, 1000, by="W")
    for start in range(0, 1000, 64):
        chunk = [settlement(key, payer="client:W", agent="W") for key in keys[start : start + 64]]
        assert set(settle(engine, chunk, now=now).values()) == {Settled.PAID}
    assert balance_ub(engine, "system:burn") == 100 * UB
    assert balance_ub(engine, "agent:W") == 9_900 * UB
    assert balance_ub(engine, "client:W") == 0
    totals = check.totals(engine)
    assert totals["settlements"] == 1000
    assert totals["minted_ub"] == totals["clients_ub"] + totals["agents_ub"] + totals["burned_ub"]
    assert check.violations(engine) == []
