"""The settle transaction: payment, burn and outcome of a whole chunk, all or nothing per task.

One advisory lock makes the order of settlement one fact: transaction ids are dense and grow in
the order in which balances moved. A chunk amortises the lock and the fsync. Rows M05, M06.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime

from sqlalchemy import Connection, Engine

from ledger.db import SETTLE_LOCK, batch, last_batch, notify_ended, one, query, transaction
from ledger.model import AttemptKey, Settlement
from ledger.postings import (
    Posting,
    Settled,
    Standing,
    TaskRow,
    client_account,
    plan_settlements,
)


def settle(
    engine: Engine, settlements: Sequence[Settlement], *, tau_ppm: int, now: datetime
) -> Mapping[AttemptKey, Settled]:
    """Settle what can be settled; say for each attempt what became of it.

    Safe to run twice and late: (task, attempt) decides, and a task has one transaction at most.
    Raises Unavailable when PostgreSQL is away, in which case nothing or everything was done, and
    running it again tells which.
    """
    with transaction(engine) as connection:
        tasks, accounts, first = _lock(connection, settlements)
        plan = plan_settlements(settlements, tasks, accounts, tau_ppm)
        if plan.payments:
            paid = [settlement for settlement, _ in plan.payments]
            with last_batch(connection):
                append(
                    connection,
                    kind="settle",
                    first=first,
                    tasks=[settlement.key.task for settlement in paid],
                    postings=[postings for _, postings in plan.payments],
                    now=now,
                )
                query(connection, "commit_tasks", {"rows": _rows(paid), "now": now})
                notify_ended(connection, [item.key.task for item in paid])
    return plan.outcomes


def take_settle_lock(connection: Connection) -> None:
    """Be the only one who settles until this transaction ends."""
    query(connection, "settle_lock", {"lock": SETTLE_LOCK})


def next_transaction(connection: Connection) -> int:
    """The id that the next transaction gets. Holds as long as the settle lock is held."""
    return int(one(query(connection, "next_transaction")).id)


def append(
    connection: Connection,
    *,
    kind: str,
    first: int,
    tasks: Sequence[str | None],
    postings: Sequence[Sequence[Posting]],
    now: datetime,
) -> None:
    """Add transactions `first`, `first` + 1, …, one per task, with their postings.

    Needs the settle lock. Every movement of credit passes here, in the order in which balances
    change: this is where a transaction's leaf enters the log.
    """
    ids = list(range(first, first + len(tasks)))
    values = {"ids": ids, "tasks": list(tasks), "kind": kind, "now": now}
    query(connection, "add_transactions", values)
    rows = [
        (number, posting.account, posting.amount_ub)
        for number, group in zip(ids, postings, strict=True)
        for posting in group
    ]
    columns = {
        "transactions": [number for number, _, _ in rows],
        "accounts": [account for _, account, _ in rows],
        "amounts": [amount_ub for _, _, amount_ub in rows],
    }
    query(connection, "add_postings", columns)


def _lock(
    connection: Connection, settlements: Sequence[Settlement]
) -> tuple[dict[str, TaskRow], dict[str, Standing], int]:
    """The settle lock, then the tasks and the paying accounts of a chunk, each in one order."""
    ids = sorted({settlement.key.task for settlement in settlements})
    accounts = sorted({client_account(settlement.client) for settlement in settlements})
    with batch(connection):
        take_settle_lock(connection)
        tasks = query(connection, "settle_tasks", {"ids": ids})
        standings = query(connection, "settle_accounts", {"accounts": accounts})
        number = query(connection, "next_transaction")
    return (
        {
            str(row.id): TaskRow(attempt=row.attempt, state=row.state, in_flight=row.in_flight)
            for row in tasks
        },
        {row.id: Standing(balance_ub=row.balance_ub, quota_ub=row.quota_ub) for row in standings},
        int(one(number).id),
    )


def _rows(paid: Sequence[Settlement]) -> str:
    return json.dumps(
        [
            {
                "task": item.key.task,
                "attempt": item.key.attempt,
                "agent": item.agent,
                "cost_ub": item.cost_ub,
                "latency_s": item.latency_s,
                "reason": item.reason,
                "output": item.output,
            }
            for item in paid
        ]
    )
