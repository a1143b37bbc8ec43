"""What an account held at any leaf and at any time is the running sum of its postings."""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime, timedelta
from random import Random

import psycopg
import pytest
from sqlalchemy import Engine

from ledger import epochs, leaves
from ledger.errors import NotFound
from ledger.history import held
from ledger.proof import entries
from ledger.proof.replay import State, TaskSet
from ledger.settle import settle
from tests.makers import UB, agent, balance_ub, claim, client, install, minted, settlement, submit

ACCOUNTS = ("client:R", "client:S", "agent:A", "agent:B", "system:burn", "system:issuance",
            "system:commons")  # fmt: skip


def some_history(engine: Engine, now: datetime) -> list[tuple[datetime, int]]:
    """Minutes of trade, and how long the log was at the end of each."""
    random, ends = Random(7), []
    install(engine, now, clients=[client(), client("S")], agents=[agent("A"), agent("B")])
    ends.append((now, leaves.size(engine)[0]))
    for minute in range(1, 25):
        at = now + timedelta(minutes=minute)
        by = random.choice("RS")
        submit(engine, now, 3, by=by)
        done = [
            settlement(
                key,
                payer=f"client:{by}",
                agent=random.choice("AB"),
                cost_ub=random.choice((0, 7, UB)),
            )
            for key in claim(engine, now)
        ]
        settle(engine, done, now=at)
        if minute % 5 == 0:
            minted(engine, "client:R", minute * UB, at)
        if minute % 8 == 0:
            epochs.close(engine, minute // 8, at)
        ends.append((at, leaves.size(engine)[0]))
    return ends


def test_history_at_a_leaf_is_the_running_sum(engine: Engine, now: datetime) -> None:
    some_history(engine, now)
    state = State(TaskSet())
    sums: defaultdict[str, int] = defaultdict(int)
    for index, leaf in enumerate(leaves.entries(engine, 0, 10**9)):
        entry = entries.decode(leaf)
        state.apply(index, leaf)
        for account, amount in entry.get("postings", []):
            sums[account] += int(amount)
        if index % 7 == 0 or "postings" not in entry:
            for account in ACCOUNTS:
                found = held(engine, account, index)
                assert (found.balance_ub, found.epoch) == (sums[account], entry["epoch"]), index
                if account in state.accounts:
                    assert found.balance_ub == state.accounts[account].balance_ub
    last = leaves.size(engine)[0] - 1
    for account in ACCOUNTS:
        assert held(engine, account, last).balance_ub == balance_ub(engine, account)


def test_history_at_a_time_is_that_of_its_last_leaf(engine: Engine, now: datetime) -> None:
    ends = some_history(engine, now)
    for at, size in ends:
        for moment in (at, at + timedelta(seconds=59)):
            found = held(engine, "client:R", moment)
            assert found.index == size - 1
            assert found == held(engine, "client:R", size - 1)
            assert found.at == at
    assert held(engine, "client:R", datetime(2999, 1, 1, tzinfo=UTC)).index == ends[-1][1] - 1


def test_what_the_log_does_not_reach_is_refused(engine: Engine, now: datetime) -> None:
    with pytest.raises(NotFound, match="begins later"):
        held(engine, "system:burn", now)
    install(engine, now)
    size = leaves.size(engine)[0]
    for index in (size, -1):
        with pytest.raises(NotFound, match=f"the log has no leaf {index}; use 0 to {size - 1}"):
            held(engine, "client:R", index)
    with pytest.raises(NotFound, match="begins later"):
        held(engine, "client:R", now - timedelta(milliseconds=1))
    with pytest.raises(NotFound, match="not known"):
        held(engine, "client:nobody", 1)


def test_what_is_older_than_the_log_counts(
    engine: Engine, database_url: str, now: datetime
) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute(
            "INSERT INTO account (id, quota_ub, opened_at) VALUES ('client:old', 0, now());"
            "INSERT INTO ledger_transaction (id, kind, at) VALUES (0, 'mint', now());"
            "INSERT INTO posting VALUES (0, 'system:issuance', -100), (0, 'client:old', 100);"
        )
    install(engine, now)
    minted(engine, "client:old", 5, now)
    assert held(engine, "client:old", 0).balance_ub == 100
    assert held(engine, "client:old", now).balance_ub == 105
