"""The settle transaction: payment, burn and outcome of a whole chunk, all or nothing per task.

One advisory lock makes the order of settlement one fact: transaction ids are dense and grow in
the order in which balances moved. A chunk amortises the lock and the fsync. Rows M05, M06.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Final

from psycopg import DataError, IntegrityError
from sqlalchemy import Connection, Engine

from ledger.db import SETTLE_LOCK, batch, last_batch, notify_ended, one, query, transaction
from ledger.errors import NotStorable
from ledger.model import AttemptKey, Settlement
from ledger.postings import (
    Posting,
    Settled,
    Standing,
    TaskRow,
    client_account,
    plan_settlements,
)

PART_MAX: Final = 4 << 20  # characters of results in one statement


def settle(
    engine: Engine, settlements: Sequence[Settlement], *, tau_ppm: int, now: datetime
) -> Mapping[AttemptKey, Settled]:
    """Settle what can be settled; say for each attempt what became of it.

    Safe to run twice and late: (task, attempt) decides, and a task has one transaction at most.
    Raises Unavailable when PostgreSQL is away, in which case nothing or everything was done, and
    running it again tells which. Raises NotStorable when one of them cannot be kept; then nothing
    was done.
    """
    try:
        return _settle(engine, settlements, tau_ppm, now)
    except (DataError, IntegrityError) as error:
        raise NotStorable(str(error).strip().splitlines()[0]) from error


def _settle(
    engine: Engine, settlements: Sequence[Settlement], tau_ppm: int, now: datetime
) -> Mapping[AttemptKey, Settled]:
    with transaction(engine) as connection:
        tasks, accounts, first, rows = _lock(connection, settlements)
        plan = plan_settlements(settlements, tasks, accounts, tau_ppm)
        if plan.payments:
            paid = [settlement.key for settlement, _ in plan.payments]
            with last_batch(connection):
                append(
                    connection,
                    kind="settle",
                    first=first,
                    tasks=[key.task for key in paid],
                    postings=[postings for _, postings in plan.payments],
                    now=now,
                )
                for part in _parts(paid, rows):
                    values = {
                        "rows": f"[{','.join([rows[key] for key in part])}]",
                        "tasks": _array([key.task for key in part]),
                        "now": now,
                    }
                    query(connection, "commit_tasks", values)
                notify_ended(connection, [key.task for key in paid])
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
    ids = range(first, first + len(tasks))
    rows = [
        (number, posting) for number, group in zip(ids, postings, strict=True) for posting in group
    ]
    names: dict[str, int] = {}
    values = {
        "kind": kind,
        "now": now,
        "ids": _array(ids),
        "tasks": _array([task or "NULL" for task in tasks]),
        "transactions": _array([number for number, _ in rows]),
        "places": _array([names.setdefault(row.account, len(names) + 1) for _, row in rows]),
        "amounts": _array([posting.amount_ub for _, posting in rows]),
        "names": list(names),
    }
    query(connection, "append", values)


def _lock(
    connection: Connection, settlements: Sequence[Settlement]
) -> tuple[dict[str, TaskRow], dict[str, Standing], int, dict[AttemptKey, str]]:
    """The settle lock, then the tasks and the paying accounts of a chunk, each in one order.

    And what `commit_tasks` will want of each settlement, as JSON: written while the server works.
    """
    ids = {settlement.key.task for settlement in settlements}
    accounts = {client_account(settlement.client) for settlement in settlements}
    with batch(connection):
        take_settle_lock(connection)
        tasks = query(connection, "settle_tasks", {"ids": _array(ids)})
        standings = query(connection, "settle_accounts", {"accounts": list(accounts)})
        number = query(connection, "next_transaction")
        # Of an attempt that is there twice the first counts, as in the plan.
        rows = {settlement.key: _row(settlement) for settlement in reversed(settlements)}
    return (
        {
            row.id: TaskRow(row.attempt, row.state, row.in_flight, row.fenced)
            for row in tasks.fetchall()
        },
        {row.id: Standing(balance_ub=row.balance_ub, quota_ub=row.quota_ub) for row in standings},
        int(one(number).id),
        rows,
    )


def _row(settlement: Settlement) -> str:
    return json.dumps(
        {
            "task": settlement.key.task,
            "attempt": settlement.key.attempt,
            "agent": settlement.agent,
            "cost_ub": settlement.cost_ub,
            "latency_s": settlement.latency_s,
            "reason": settlement.reason,
            "output": settlement.output,
        }
    )


def _parts(
    keys: Sequence[AttemptKey], rows: Mapping[AttemptKey, str]
) -> Iterator[Sequence[AttemptKey]]:
    """One part after the other: a statement holds no more than PART_MAX characters of results, or a
    single one."""
    start = size = 0
    for end, key in enumerate(keys):
        size += len(rows[key])
        if size > PART_MAX and end > start:
            yield keys[start:end]
            start, size = end, len(rows[key])
    yield keys[start:]


def _array(values: Iterable[object]) -> str:
    """A PostgreSQL array of numbers or ids, which need no quotes.

    Of a list the driver looks at every element, which costs more than writing them.
    """
    return "{" + ",".join(map(str, values)) + "}"
