from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from sqlalchemy import Connection, Engine

from ledger import check_leaves, check_log, epochs
from ledger.attempts import abort
from ledger.check import violations
from ledger.settle import settle
from tests.makers import claim, client, failure, install, jump, plant, settlement, submit

# What is broken, and the invariant and words under which it must be reported.
VIOLATIONS = {
    "unbalanced postings": (
        "UPDATE posting SET amount_ub = amount_ub + 1"
        " WHERE transaction = 1 AND account = 'agent:A'",
        "C1",
        "postings sum to 1, not 0",
    ),
    "balance moved by hand": (
        "UPDATE account SET balance_ub = balance_ub - 7 WHERE id = 'client:R'",
        "C1",
        "but its postings sum to",
    ),
    "sum of balances": (
        "UPDATE account SET balance_ub = balance_ub + 3 WHERE id = 'system:burn'",
        "C1",
        "balances sum to 3, not 0",
    ),
    "lost account": (
        "DELETE FROM account WHERE id = 'agent:A'",
        "C1",
        "there is no such account",
    ),
    "lost transaction": (
        "DELETE FROM ledger_transaction WHERE id = 1",
        "C1",
        "it has postings but does not exist",
    ),
    "hole in the ids": (
        "UPDATE ledger_transaction SET id = 9 WHERE id = 1",
        "C1",
        "ids are not dense",
    ),
    "other price": (
        "UPDATE task_result SET cost_ub = cost_ub + 1",
        "C2",
        "committed at 10000001 but paid 10000000",
    ),
    "attempt of another price": (
        "UPDATE attempt SET cost_ub = cost_ub + 1",
        "C2",
        "without the record of the attempt that its result names",
    ),
    "attempt of another agent": (
        "UPDATE attempt SET agent = 'B'",
        "C2",
        "without the record of the attempt that its result names",
    ),
    "attempt that failed": (
        "UPDATE attempt SET state = 'ABORTED', f_before = 0, f_after = 0, s_before = 1,"
        " s_after = 1",
        "C2",
        "without the record of the attempt that its result names",
    ),
    "result of another attempt": (
        "UPDATE task_result SET attempt = 2",
        "C2",
        "without the record of the attempt that its result names",
    ),
    "lost attempt": (
        "DELETE FROM attempt",
        "C2",
        "without the record of the attempt that its result names",
    ),
    "another agent paid": (
        "INSERT INTO account (id, quota_ub, balance_ub, opened_at)"
        " VALUES ('agent:B', 0, 9900000, now());"
        "UPDATE posting SET account = 'agent:B' WHERE account = 'agent:A';"
        "UPDATE account SET balance_ub = 0 WHERE id = 'agent:A'",
        "C2",
        "paid to another account than agent:A",
    ),
    "another agent named": (
        "UPDATE task_result SET agent = 'B'; UPDATE attempt SET agent = 'B'",
        "C2",
        "paid to another account than agent:B",
    ),
    "lost result": ("DELETE FROM task_result", "C2", "committed at -1"),
    "paid and not committed": (
        "UPDATE task SET state = 'CANCELLED'",
        "C2",
        "paid although it is CANCELLED",
    ),
    "paid for no task": ("DELETE FROM task", "C2", "paid although it is unknown"),
    "committed and not paid": (
        "DELETE FROM ledger_transaction WHERE kind = 'settle'",
        "C2",
        "committed without a settlement",
    ),
    "no reason to wait": (
        "UPDATE task SET state = 'INIT', wait = NULL, ended_at = NULL",
        "C3",
        "in INIT without a reason to wait",
    ),
    "below the quota": (
        "UPDATE account SET balance_ub = -1 WHERE id = 'client:R'",
        "C4",
        "is below its quota 0",
    ),
}
GUARDS = {
    "no reason to wait": "ALTER TABLE task DROP CONSTRAINT task_check",
    "below the quota": "ALTER TABLE account DROP CONSTRAINT balance_within_quota",
}


@pytest.fixture(autouse=True)
def _one_settled(engine: Engine, now: datetime) -> None:
    install(engine, now)
    submit(engine, now)
    settle(engine, [settlement(key) for key in claim(engine, now)], now=now)


def test_a_sound_ledger_has_no_violations(engine: Engine) -> None:
    assert violations(engine) == []


@pytest.mark.parametrize("name", VIOLATIONS)
def test_a_planted_violation_is_named(engine: Engine, database_url: str, name: str) -> None:
    statement, invariant, words = VIOLATIONS[name]
    guard = GUARDS.get(name)
    plant(database_url, *([guard] if guard else []), statement)
    found = violations(engine)
    assert any(item.invariant == invariant and words in item.violation for item in found), found
    assert all(item.subject for item in found)


@pytest.mark.parametrize(
    ("due", "instead"), [("agent:A", "system:commons"), ("client:R", "client:S")]
)
def test_a_settlement_between_others_is_named(
    engine: Engine, database_url: str, now: datetime, due: str, instead: str
) -> None:
    """The share of an account was moved on another; every sum and balance still agrees."""
    install(engine, now, clients=[client("S")])
    plant(
        database_url,
        f"UPDATE account SET balance_ub = balance_ub - p.amount_ub FROM posting p"
        f" WHERE id = '{due}' AND p.account = id AND p.transaction = 1",
        f"UPDATE account SET balance_ub = balance_ub + p.amount_ub FROM posting p"
        f" WHERE id = '{instead}' AND p.account = '{due}' AND p.transaction = 1",
        f"UPDATE posting SET account = '{instead}' WHERE account = '{due}' AND transaction = 1",
    )
    plant(
        database_url,
        f"UPDATE account SET settled = settled - 1 WHERE id = '{due}'",
        f"UPDATE account SET settled = settled + 1 WHERE id = '{instead}'",
    )
    named = {(item.invariant, item.violation.split(" to ")[0]) for item in violations(engine)}
    assert named == {
        ("C2", "paid"),
        ("C7", "transaction 1 has other postings"),  # the log remembers
    }


def test_a_ledger_at_work_is_checked_as_of_one_instant(
    engine: Engine, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything moves between two statements of the check."""

    class Meanwhile(check_leaves.Leaves):
        def __init__(self, connection: Connection) -> None:
            install(engine, now, clients=[client("S")])
            submit(engine, now, 300)
            done = [settlement(key) for key in claim(engine, now)]
            settle(engine, done[1:], now=now)
            abort(engine, [failure(done[0].key)], now)
            epochs.close(engine, 1, now)
            super().__init__(connection)

    with monkeypatch.context() as patch:
        patch.setattr(check_log, "Leaves", Meanwhile)
        assert violations(engine) == []
    assert violations(engine) == []


WITHOUT_A_LOG = (
    "DELETE FROM log_append WHERE size > 0",
    "UPDATE ledger_transaction SET leaf = NULL",
    "UPDATE epoch SET opened_at = 'epoch', transaction = 0, minted_ub = 0, burned_ub = 0",
    "DELETE FROM param",
)


def failed(engine: Engine, now: datetime) -> None:
    submit(engine, now)
    abort(engine, [failure(key, penalty=jump((0.0, 1.5))) for key in claim(engine, now)], now)


def test_a_ledger_that_is_older_than_its_log_is_sound(
    engine: Engine, database_url: str, now: datetime
) -> None:
    failed(engine, now)
    plant(database_url, *WITHOUT_A_LOG)
    assert violations(engine) == []
    later = now + timedelta(hours=1)
    install(engine, later, clients=[client(), client("S")])
    assert violations(engine) == []
    epochs.close(engine, 1, later)
    failed(engine, later)
    assert violations(engine) == []


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        (
            "UPDATE account SET opened_at = opened_at + interval '1 ms' WHERE id = 'agent:A'",
            "its time of opening is",
        ),
        ("UPDATE epoch SET minted_ub = minted_ub + 1 WHERE id = 1", "its minted_ub is"),
        ("UPDATE epoch SET burned_ub = burned_ub + 1 WHERE id = 1", "its burned_ub is"),
        ("UPDATE epoch SET transaction = 1 WHERE id = 1", "its transaction is 1, in the log 2"),
        ("UPDATE epoch SET opened_at = now() WHERE id = 1", "its opened_at is"),
        (
            "UPDATE attempt SET ended_at = ended_at + interval '2 h' WHERE state = 'ABORTED'",
            "1 failed since the log began, but 0 have a leaf",
        ),
    ],
)
def test_what_a_log_took_over_is_checked_from_there(
    engine: Engine, database_url: str, now: datetime, statement: str, words: str
) -> None:
    failed(engine, now)
    plant(database_url, *WITHOUT_A_LOG)
    install(engine, now + timedelta(hours=1), clients=[client(), client("S", mint_b=0)])
    plant(database_url, statement)
    assert words in "; ".join(item.violation for item in violations(engine))


def test_a_page_that_is_no_bundle_is_named(engine: Engine, database_url: str) -> None:
    plant(database_url, "UPDATE log_append SET entries = '\\xffff00' WHERE first = 0")
    (found,) = violations(engine)
    assert "no bundle of leaves" in found.violation


def test_the_empty_log_at_the_beginning_is_checked(engine: Engine, database_url: str) -> None:
    plant(database_url, "UPDATE log_append SET at = now() WHERE size = 0")
    (found,) = violations(engine)
    assert (found.subject, found.invariant) == ("log page 0", "C7")
