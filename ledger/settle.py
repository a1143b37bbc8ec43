"""The settle transaction: payment, burn and outcome of a whole chunk, all or nothing per task.

One advisory lock makes the order of settlement one fact: transaction ids are dense and grow in
the order in which balances moved. A chunk amortises the lock and the fsync. Rows M05, M06.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Engine, text

from ledger.db import SETTLE_LOCK, notify_ended, sql, transaction
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
        take_settle_lock(connection)
        tasks = _lock_tasks(connection, settlements)
        accounts = _lock_accounts(connection, settlements)
        plan = plan_settlements(settlements, tasks, accounts, tau_ppm)
        if plan.payments:
            paid = [settlement for settlement, _ in plan.payments]
            append(
                connection,
                kind="settle",
                tasks=[settlement.key.task for settlement in paid],
                postings=[postings for _, postings in plan.payments],
                now=now,
            )
            connection.execute(sql("commit_tasks"), _columns(paid) | {"now": now})
            notify_ended(connection, [item.key.task for item in paid])
    return plan.outcomes


def take_settle_lock(connection: Connection) -> None:
    """Be the only one who settles until this transaction ends."""
    connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": SETTLE_LOCK})


def append(
    connection: Connection,
    *,
    kind: str,
    tasks: Sequence[str | None],
    postings: Sequence[Sequence[Posting]],
    now: datetime,
) -> None:
    """Add transactions in order, one per task, with their postings. Needs the settle lock.

    Every movement of credit passes here, in the order in which balances change: this is where a
    transaction's leaf enters the log.
    """
    first = connection.execute(sql("next_transaction")).scalar_one()
    ids = list(range(first, first + len(tasks)))
    connection.execute(
        sql("add_transactions"), {"ids": ids, "tasks": list(tasks), "kind": kind, "now": now}
    )
    rows = [
        (number, posting.account, posting.amount_ub)
        for number, group in zip(ids, postings, strict=True)
        for posting in group
    ]
    if rows:
        numbers, accounts, amounts = zip(*rows, strict=True)
        connection.execute(
            sql("add_postings"),
            {
                "transactions": list(numbers),
                "accounts": list(accounts),
                "amounts": list(amounts),
            },
        )


def _lock_tasks(connection: Connection, settlements: Sequence[Settlement]) -> dict[str, TaskRow]:
    ids = sorted({settlement.key.task for settlement in settlements})
    rows = connection.execute(sql("settle_tasks"), {"ids": ids})
    return {
        str(row.id): TaskRow(attempt=row.attempt, state=row.state, in_flight=row.in_flight)
        for row in rows
    }


def _lock_accounts(
    connection: Connection, settlements: Sequence[Settlement]
) -> dict[str, Standing]:
    accounts = sorted({client_account(settlement.client) for settlement in settlements})
    rows = connection.execute(sql("settle_accounts"), {"accounts": accounts})
    return {row.id: Standing(balance_ub=row.balance_ub, quota_ub=row.quota_ub) for row in rows}


def _columns(paid: Sequence[Settlement]) -> dict[str, list[Any]]:
    return {
        "ids": [item.key.task for item in paid],
        "attempts": [item.key.attempt for item in paid],
        "agents": [item.agent for item in paid],
        "costs": [item.cost_ub for item in paid],
        "latencies": [item.latency_s for item in paid],
        "reasons": [item.reason for item in paid],
        "outputs": [json.dumps(item.output) for item in paid],
    }
