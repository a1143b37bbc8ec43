"""Epochs: what a close takes and gives, and that every settlement is in exactly one (M07, C8)."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg import errors
from sqlalchemy import Engine

from ledger import checkpoints, epochs, leaves
from ledger.attempts import Waiting, put_back
from ledger.check import violations
from ledger.errors import NotFound
from ledger.model import AttemptKey, Wait
from ledger.proof import entries
from ledger.proof.checkpoint import Checkpoint
from ledger.proof.notes import LOG, Signer
from ledger.proof.replay import State, TaskSet
from ledger.settle import settle
from scheduler.hooks import hookimpl
from tasks import epochs as job
from tasks.context import Context, bind
from tests.makers import (
    UB,
    agent,
    as_owner,
    balance_ub,
    claim,
    client,
    install,
    plant,
    settlement,
    submit,
)  # fmt: skip

OLD = timedelta(days=30)
SIGNER = Signer(name="log.test/1", kind=LOG, seed=bytes([1] * 32))


def after(now: datetime, epoch: int) -> datetime:
    return now + timedelta(hours=epoch)


def replayed(engine: Engine) -> State:
    """The whole log, checked leaf by leaf."""
    state = State(TaskSet())
    for index, leaf in enumerate(leaves.entries(engine, 0, 10**9)):
        state.apply(index, leaf)
    return state


def found(engine: Engine, kind: str) -> list[dict[str, Any]]:
    every = [entries.decode(leaf) for leaf in leaves.entries(engine, 0, 10**9)]
    return [leaf for leaf in every if leaf["type"] == kind]


def pay(engine: Engine, now: datetime, count: int = 1, *, by: str = "R", **values: Any) -> None:
    submit(engine, now, count, by=by)
    done = [settlement(key, payer=f"client:{by}", **values) for key in claim(engine, now)]
    assert len(done) == count
    settle(engine, done, now=now)


def sound(engine: Engine) -> None:
    assert violations(engine) == []
    replayed(engine)


def test_the_rates_of_the_specification(engine: Engine, now: datetime) -> None:
    """900 -> 892, -260 -> -261.2, 250 -> 250."""
    rich, mid, poor = client("rich", 900), client("mid", 250), client("poor", 0, quota_ub=500 * UB)
    install(engine, now - OLD, clients=[rich, mid, poor])
    pay(engine, now, 13, by="poor", cost_ub=20 * UB)
    closed = epochs.close(engine, 1, now)
    assert closed is not None
    assert closed.totals == epochs.Totals(
        accounts=7,
        demurrage_ub=8 * UB,
        charge_ub=1_200_000,
        top_up_ub=0,
        burned_ub=2_600_000,
        minted_ub=1150 * UB,
        settled=13,
    )
    left = [balance_ub(engine, f"client:{name}") for name in ("rich", "poor", "mid")]
    assert left == [892 * UB, -261_200_000, 250 * UB]
    assert balance_ub(engine, "system:commons") == 9_200_000
    sound(engine)


def test_a_thousand_calls_burn_exactly_one_hundred(engine: Engine, now: datetime) -> None:
    install(engine, now, clients=[client(mint_b=10_000)])
    pay(engine, now, 1000, cost_ub=10 * UB)
    closed = epochs.close(engine, 1, after(now, 1))
    assert closed is not None
    assert closed.totals is not None
    assert (closed.totals.burned_ub, closed.totals.settled) == (100 * UB, 1000)
    sound(engine)


@pytest.mark.parametrize(("calls", "age_s", "owed_ub"), [
    (10, 7 * 86_400, -301 * UB - 2_020_000),
    (9, 7 * 86_400, -301 * UB),
    (10, 7 * 86_400 - 1, -301 * UB),
])  # fmt: skip
def test_who_is_young_or_hardly_worked_is_spared_the_charge(
    engine: Engine, now: datetime, calls: int, age_s: int, owed_ub: int
) -> None:
    install(engine, now, clients=[client("poor", 0, quota_ub=500 * UB)])
    pay(engine, now, calls - 1, by="poor", cost_ub=UB)
    pay(engine, now, by="poor", cost_ub=(302 - calls) * UB)
    epochs.close(engine, 1, now + timedelta(seconds=age_s))
    assert balance_ub(engine, "client:poor") == owed_ub
    sound(engine)


def test_a_free_task_counts_for_nobody(engine: Engine, now: datetime) -> None:
    install(engine, now - OLD, clients=[client("poor", 0, quota_ub=500 * UB)])
    pay(engine, now, 9, by="poor", cost_ub=0)
    pay(engine, now, by="poor", cost_ub=301 * UB)
    epochs.close(engine, 1, now)
    assert balance_ub(engine, "client:poor") == -301 * UB
    sound(engine)


@pytest.mark.parametrize("epochs_after", [3])
def test_many_accounts_are_cleared_in_pages_that_a_replay_accepts(
    engine: Engine, now: datetime, epochs_after: int
) -> None:
    names = [f"{'aZ-._'[number % 5]}x{number}" for number in range(11_000)]
    names = [name if name[0].isalnum() else f"q{name}" for name in names]
    install(engine, now - OLD, clients=[client(name, 501 + len(name)) for name in names])
    for number in range(1, epochs_after + 1):
        closed = epochs.close(engine, number, after(now, number))
        assert closed is not None
    parts = Counter(leaf["epoch"] for leaf in found(engine, "clear"))
    assert parts == {number: 17 for number in range(1, epochs_after + 1)}
    sound(engine)


def blocked(engine: Engine, now: datetime, by: str) -> None:
    """A task of this client waits for credit."""
    submit(engine, now, by=by)
    later = int((now + OLD).timestamp() * 1000)
    waiting = [Waiting(key, Wait.CREDIT, later) for key in claim(engine, now)]
    assert len(waiting) == 1
    put_back(engine, waiting)


TOPPED = {"clearing": {"top_up_ub": UB, "top_up_cap_ub": 2_500_000}}


def test_blocked_clients_get_what_they_burned_and_the_commons_pay_first(
    engine: Engine, now: datetime
) -> None:
    names = ("busy", "other", "third")
    poor = [client(name, 100) for name in names]
    idle = [client("idle", 0), client("rich", 600), client("calm", 100), client("slow", 99)]
    install(engine, now, clients=[*poor, *idle], params=TOPPED)
    for name in (*names, "calm"):
        pay(engine, now, by=name, cost_ub=100 * UB)  # burns 1 B
    pay(engine, now, by="slow", cost_ub=99 * UB)
    pay(engine, now, by="rich", cost_ub=100 * UB)
    for name in (*names, "idle", "rich", "slow"):
        blocked(engine, now, name)
    closed = epochs.close(engine, 1, after(now, 1))
    assert closed is not None
    assert closed.totals is not None
    share = 2_500_000 // 3
    assert closed.totals.top_up_ub == 3 * share
    assert [balance_ub(engine, f"client:{name}") for name in names] == [share] * 3
    left = [balance_ub(engine, f"client:{name}") for name in ("idle", "calm", "slow", "rich")]
    assert left == [0, 0, 0, 500 * UB]
    # The agent has earned enough to pay demurrage: that goes first.
    assert closed.totals.demurrage_ub == 1_860_200
    assert closed.totals.minted_ub == 1099 * UB + 3 * share - 1_860_200
    sound(engine)
    # In the next epoch nothing of theirs has burned.
    again = epochs.close(engine, 2, after(now, 2))
    assert again is not None
    assert again.totals is not None
    assert again.totals.top_up_ub == 0


def test_the_commons_pay_as_long_as_they_last(engine: Engine, now: datetime) -> None:
    install(engine, now, clients=[client("rich", 510), client("poor", 200)], params=TOPPED)
    pay(engine, now, by="poor", cost_ub=200 * UB)
    blocked(engine, now, "poor")
    epochs.close(engine, 1, after(now, 1))  # demurrage 0.2 B
    (leaf,) = found(engine, "top_up")
    assert leaf["postings"] == [
        ["client:poor", "1000000"],
        ["system:commons", "-200000"],
        ["system:issuance", "-800000"],
    ]
    sound(engine)


def test_without_a_top_up_nobody_is_given_anything(engine: Engine, now: datetime) -> None:
    install(engine, now, clients=[client("poor", 200)])
    pay(engine, now, by="poor", cost_ub=200 * UB)
    blocked(engine, now, "poor")
    epochs.close(engine, 1, after(now, 1))
    assert found(engine, "top_up") == []


@pytest.mark.parametrize("seed", range(6))
def test_a_settlement_that_races_the_close_is_in_one_epoch(
    engine: Engine, now: datetime, seed: int
) -> None:
    install(engine, now, clients=[client(mint_b=10_000)])
    rounds, size, hands = 5, 8, 3
    submit(engine, now, rounds * size * hands)
    done = [settlement(key, cost_ub=UB + seed) for key in claim(engine, now)]
    barrier = threading.Barrier(hands + 1)

    def work(mine: Sequence[Any]) -> None:
        for start in range(0, len(mine), size):
            barrier.wait()
            settle(engine, mine[start : start + size], now=now)

    def end() -> None:
        for number in range(1, rounds + 1):
            barrier.wait()
            epochs.close(engine, number, after(now, number))

    with ThreadPoolExecutor(hands + 1) as pool:
        for future in [
            *(pool.submit(work, done[hand::hands]) for hand in range(hands)),
            pool.submit(end),
        ]:
            future.result()
    epochs.close(engine, rounds + 1, after(now, rounds + 1))
    settled = Counter(leaf["epoch"] for leaf in found(engine, "settle"))
    assert sum(settled.values()) == len(done)
    for item in epochs.epochs(engine, limit=100):
        if item.totals is not None:
            assert item.totals.settled == settled[item.epoch]
            assert item.totals.burned_ub == settled[item.epoch] * ((UB + seed) // 100)
    sound(engine)


def test_whoever_comes_at_once_or_again_closes_it_once(engine: Engine, now: datetime) -> None:
    install(engine, now)
    barrier = threading.Barrier(4)

    def end() -> bool:
        barrier.wait()
        return epochs.close(engine, 1, after(now, 1)) is not None

    with ThreadPoolExecutor(4) as pool:
        results = [future.result() for future in [pool.submit(end) for _ in range(4)]]
    assert sorted(results) == [False, False, False, True]
    assert epochs.close(engine, 1, after(now, 2)) is None
    assert epochs.close(engine, 3, after(now, 2)) is None
    assert epochs.opened(engine) == 2
    assert len(found(engine, "epoch_close")) == 1


def test_an_epoch_that_was_missed_closes_once(context: Context, now: datetime) -> None:
    engine = context.engine
    bind(context)
    assert epochs.due(engine, now) is None  # there is no log yet
    job.close_epoch()
    assert leaves.size(engine)[0] == 0
    start = context.now()
    install(engine, start - timedelta(hours=9, seconds=1))
    opened_at = epochs.epoch(engine, 1).opened_at
    assert epochs.due(engine, opened_at + timedelta(seconds=3599)) is None
    assert epochs.due(engine, opened_at + timedelta(seconds=3600)) == 1
    for _ in range(3):
        job.close_epoch()
    second, first = epochs.epochs(engine, limit=10)
    assert first.closed_at is not None
    assert first.closed_at >= start
    assert (second.epoch, second.opened_at, second.first) == (2, first.closed_at, first.size)
    assert epochs.due(engine, second.opened_at + timedelta(seconds=3599)) is None


def test_a_clock_that_was_ahead_once_stops_no_epoch(engine: Engine, now: datetime) -> None:
    install(engine, now)
    hour = timedelta(hours=1)
    epochs.close(engine, 1, now + 1000 * hour)  # years, in effect: then it is put right
    assert epochs.due(engine, now + hour) == 2
    epochs.close(engine, 2, now + hour)
    assert epochs.due(engine, now + hour) is None
    assert epochs.due(engine, now + 0.5 * hour) is None  # a little behind is how clocks are
    assert epochs.due(engine, now + 2 * hour) == 3
    assert violations(engine) == []
    replayed(engine)


def test_an_epoch_ends_with_a_checkpoint_of_its_own(engine: Engine, now: datetime) -> None:
    install(engine, now)
    checkpoints.introduce(engine, SIGNER.key, now)
    first = epochs.close(engine, 1, after(now, 1), SIGNER)
    assert first is not None
    assert first.size is not None
    note = checkpoints.at(engine, first.size).note
    note.verified_by([SIGNER.key])
    assert (first.size, Checkpoint.parse(note.text).root) == leaves.size(engine)
    other = replace(SIGNER, seed=bytes([2] * 32))
    second = epochs.close(engine, 2, after(now, 2), other)
    assert second is not None, "a wrong key holds up no epoch"
    assert checkpoints.newest(engine).size == first.size


def test_plug_ins_hear_of_each_close_once(context: Context, now: datetime) -> None:
    heard: list[int] = []

    class Listener:
        @hookimpl
        def on_epoch_end(self, epoch: int) -> None:
            heard.append(epoch)

    install(context.engine, now)
    context.hooks.add("listener", Listener)
    assert job.close(context, 1) is not None
    assert job.close(context, 1) is None
    assert job.close(context, 2) is not None
    assert heard == [1, 2]


def test_how_long_an_epoch_is_may_be_configured(engine: Engine, now: datetime) -> None:
    install(engine, now, params={"clearing": {"epoch_s": 60}})
    assert epochs.due(engine, now + timedelta(seconds=59)) is None
    assert epochs.due(engine, now + timedelta(seconds=60)) == 1


def test_epochs_are_shown_newest_first(engine: Engine, now: datetime) -> None:
    install(engine, now)
    for number in (1, 2, 3):
        epochs.close(engine, number, after(now, number))
    assert [item.epoch for item in epochs.epochs(engine, limit=2)] == [4, 3]
    assert [item.epoch for item in epochs.epochs(engine, limit=9, before=3)] == [2, 1]
    shown = epochs.epoch(engine, 2)
    (leaf,) = [leaf for leaf in found(engine, "epoch_close") if leaf["epoch"] == 2]
    assert shown.balances_sha256 == leaf["balances_sha256"]
    assert shown.size is not None
    assert entries.decode(leaves.entry(engine, shown.size - 1)) == leaf
    with pytest.raises(NotFound):
        epochs.epoch(engine, 5)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE epoch SET totals = '{}' WHERE id = 1",
        "UPDATE epoch SET closed_at = NULL, size = NULL, totals = NULL, balances_sha256 = NULL"
        " WHERE id = 1",
        "DELETE FROM epoch",
        "TRUNCATE epoch CASCADE",
    ],
)
def test_a_closed_epoch_stays_as_it_is(
    engine: Engine, database_url: str, now: datetime, statement: str
) -> None:
    install(engine, now)
    epochs.close(engine, 1, after(now, 1))
    with pytest.raises(errors.InsufficientPrivilege):
        as_owner(database_url, statement)
    as_owner(database_url, "UPDATE epoch SET final_at = now() WHERE id = 1")
    with pytest.raises(errors.InsufficientPrivilege):
        as_owner(database_url, "UPDATE epoch SET final_at = NULL WHERE id = 1")


SETTLED = "(SELECT id FROM ledger_transaction WHERE kind = 'settle' ORDER BY id LIMIT 1)"
PLANTED = {
    "burned": (
        "UPDATE epoch SET totals = jsonb_set(totals, '{burned_ub}', '7') WHERE id = 1",
        "C8", "burned 7 but its postings say 100000",
    ),
    "settled": (
        "UPDATE epoch SET totals = jsonb_set(totals, '{settled}', '2') WHERE id = 1",
        "C8", "settled 2 but its postings say 1",
    ),
    "cleared": (
        "UPDATE epoch SET totals = jsonb_set(totals, '{demurrage_ub}', '1') WHERE id = 1",
        "C8", "cleared 1 but its postings say 29800000",
    ),
    "gap between epochs": ("UPDATE epoch SET first = first + 1 WHERE id = 2", "C8", "begins at"),
    "none open": ("DELETE FROM epoch WHERE closed_at IS NULL", "C8", "0 are open, not 1"),
    "commit in another epoch": (
        "UPDATE epoch SET transaction = 0 WHERE id = 2", "C8", "is outside of epoch 2",
    ),
    "page of another epoch": (
        "UPDATE log_append SET epoch = 2 WHERE epoch = 1", "C8", "outside of its leaves",
    ),
    "no leaf": (
        f"UPDATE ledger_transaction SET leaf = NULL WHERE id = {SETTLED}",
        "C7", "no leaf although the log had begun",
    ),
    "another leaf": (
        f"UPDATE ledger_transaction SET leaf = leaf - 1 WHERE id = {SETTLED}",
        "C7", "no transaction has this settle leaf",
    ),
    "other postings": (
        "UPDATE posting SET amount_ub = amount_ub - 1"
        f" WHERE transaction = {SETTLED} AND account = 'client:R'",
        "C7", "has other postings",
    ),
    "another task": (
        f"UPDATE ledger_transaction SET task = gen_random_uuid() WHERE id = {SETTLED}",
        "C7", "is a settle of task",
    ),
    "a page less": (
        "DELETE FROM log_append WHERE size = (SELECT max(size) FROM log_append)",
        "C7", "its leaf is not in the log",
    ),
    "a page changed": (
        "UPDATE log_append SET entries = overlay(entries placing 'x' from 40) WHERE size ="
        " (SELECT max(size) FROM log_append)",
        "C7", "its hashes are not those of its leaves",
    ),
    "a hole": (
        "DELETE FROM log_append WHERE first = 0", "C7", "that come next",
    ),
    "another root": (
        "UPDATE log_append SET root = sha256('x') WHERE size > 0", "C7", "not that of the leaves",
    ),
    "settled by nobody": (
        "UPDATE account SET settled = 9 WHERE id = 'agent:A'", "C1",
        "settled 9 tasks but 2 settlements moved it",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_violation_is_named(
    engine: Engine, database_url: str, now: datetime, name: str
) -> None:
    install(engine, now)
    pay(engine, now, cost_ub=10 * UB)
    epochs.close(engine, 1, after(now, 1))
    pay(engine, now, cost_ub=10 * UB)
    epochs.close(engine, 2, after(now, 2))
    sound(engine)
    statement, invariant, words = PLANTED[name]
    plant(database_url, statement)
    named = violations(engine)
    assert any(item.invariant == invariant and words in item.violation for item in named), named


def test_totals_are_what_the_postings_say(engine: Engine, database_url: str, now: datetime) -> None:
    install(engine, now, agents=[agent("A"), agent("B")])
    for number in range(1, 4):
        pay(engine, now, number, cost_ub=7_777_777, agent="AB"[number % 2])
        epochs.close(engine, number, after(now, number))
    with psycopg.connect(database_url) as connection:
        rows = connection.execute(
            "SELECT t.kind, p.account, sum(p.amount_ub) FROM posting p JOIN ledger_transaction t"
            " ON t.id = p.transaction GROUP BY t.kind, p.account"
        ).fetchall()
    sums = {(kind, account): int(total) for kind, account, total in rows}
    stated = [item.totals for item in epochs.epochs(engine, limit=9) if item.totals is not None]
    assert sum(item.burned_ub for item in stated) == sums["settle", "system:burn"]
    assert sum(item.minted_ub for item in stated) == -sums["mint", "system:issuance"]
    cleared = sum(item.demurrage_ub + item.charge_ub for item in stated)
    assert cleared == sums["clear", "system:commons"]
    assert [item.settled for item in stated] == [3, 2, 1]


def test_a_late_attempt_belongs_to_the_epoch_that_is_open(engine: Engine, now: datetime) -> None:
    install(engine, now)
    submit(engine, now)
    (key,) = claim(engine, now)
    assert isinstance(key, AttemptKey)
    epochs.close(engine, 1, after(now, 1))
    settle(engine, [settlement(key)], now=now)
    (leaf,) = found(engine, "settle")
    assert leaf["epoch"] == 2


def test_a_preview_says_what_a_close_would_do_and_does_nothing(
    engine: Engine, now: datetime
) -> None:
    rich, richer, even = client("rich", 900), client("richer", 1000), client("even", 250)
    install(engine, now, clients=[rich, richer, even])
    before = leaves.size(engine)
    for limit, names in ((9, ["client:richer", "client:rich"]), (1, ["client:richer"])):
        seen = epochs.preview(engine, after(now, 1), limit=limit)
        assert (seen.epoch, seen.moved) == (1, 2)
        assert [move.account for move in seen.moves] == names
    assert seen.moves[0] == epochs.Move(
        account="client:richer", kind="clear", amount_ub=-10 * UB, balance_ub=990 * UB
    )
    assert leaves.size(engine) == before
    assert balance_ub(engine, "client:rich") == 900 * UB
    closed = epochs.close(engine, 1, after(now, 1))
    assert closed is not None
    assert closed.totals == seen.totals
    sound(engine)


def test_a_preview_of_nothing_is_empty(engine: Engine, now: datetime) -> None:
    install(engine, now, clients=[client("even", 250)])
    seen = epochs.preview(engine, now, limit=9)
    assert (seen.moved, list(seen.moves), seen.totals.demurrage_ub) == (0, [], 0)


def test_with_rates_of_0_nothing_is_taken(engine: Engine, now: datetime) -> None:
    rates = {"clearing": {"rho_plus_ppm": 0, "rho_minus_ppm": 0}}
    install(engine, now, clients=[client("rich", 1_000_000)], params=rates)
    closed = epochs.close(engine, 1, now)
    assert closed is not None
    assert balance_ub(engine, "client:rich") == 1_000_000 * UB
    assert found(engine, "clear") == []
    assert len(found(engine, "epoch_close")) == 1
    sound(engine)
