"""The settle transaction: payment, burn and outcome of a whole chunk, all or nothing per task.

One advisory lock makes the order of settlement one fact: transaction ids are dense and grow in
the order in which balances moved. A chunk amortises the lock and the fsync. Rows M05, M06.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from typing import Any, Final, NamedTuple

from psycopg import DataError, IntegrityError
from sqlalchemy import Connection, Engine

from ledger.db import SETTLE_LOCK, batch, last_batch, notify_ended, one, query, transaction
from ledger.errors import NotStorable
from ledger.log import Page, page_of
from ledger.model import AttemptKey, Json, Settlement
from ledger.params import burned_ppm
from ledger.postings import (
    Posting,
    Settled,
    Standing,
    TaskRow,
    agent_account,
    plan_settlements,
)
from ledger.proof import entries

SURROGATE: Final = re.compile("[\ud800-\udfff]")

PART_MAX: Final = 4 << 20  # characters of results in one statement


def settle(
    engine: Engine, settlements: Sequence[Settlement], *, now: datetime
) -> Mapping[AttemptKey, Settled]:
    """Settle what can be settled; say for each attempt what became of it.

    Burned is the share that the log says is in force: read under the lock, under which it changes.

    Safe to run twice and late: (task, attempt) decides, and a task has one transaction at most.
    Raises Unavailable when PostgreSQL is away, in which case nothing or everything was done, and
    running it again tells which. Raises NotStorable when one of them cannot be kept; then nothing
    was done.
    """
    try:
        return _settle(engine, settlements, now)
    except (DataError, IntegrityError) as error:
        raise NotStorable(str(error).strip().splitlines()[0]) from error


def _settle(
    engine: Engine, settlements: Sequence[Settlement], now: datetime
) -> Mapping[AttemptKey, Settled]:
    with transaction(engine) as connection:
        tasks, accounts, head, rows = _lock(connection, settlements)
        plan = plan_settlements(settlements, tasks, accounts, burned_ppm(head.tau_ppm))
        if plan.payments:
            page = page_of(connection, head, now)
            paid = [settlement.key for settlement, _ in plan.payments]
            leaves = [
                _leaf(page, settlement, postings, rows[settlement.key].output_sha256)
                for settlement, postings in plan.payments
            ]
            with last_batch(connection):
                append(
                    connection,
                    page,
                    kind="settle",
                    leaves=leaves,
                    tasks=[key.task for key in paid],
                    postings=[postings for _, postings in plan.payments],
                )
                page.write(connection)
                for part in _parts(paid, rows):
                    values = {
                        "rows": f"[{','.join([rows[key].json for key in part])}]",
                        "tasks": _array([key.task for key in part]),
                        "now": now,
                    }
                    query(connection, "commit_tasks", values)
                notify_ended(connection, [key.task for key in paid])
    return plan.outcomes


def append(
    connection: Connection,
    page: Page,
    *,
    kind: str,
    leaves: Sequence[bytes],
    tasks: Sequence[str | None],
    postings: Sequence[Sequence[Posting]],
) -> None:
    """Add a transaction for each leaf, with its task and postings, and the leaves to the page.

    Every movement of credit passes here, in the order in which balances change.
    """
    first = page.add(*leaves)
    ids = page.transactions(len(leaves))
    rows = [
        (number, posting) for number, group in zip(ids, postings, strict=True) for posting in group
    ]
    names: dict[str, int] = {}
    values = {
        "kind": kind,
        "now": page.now,
        "ids": _array(ids),
        "leaf": first - ids.start,
        "tasks": _array([task or "NULL" for task in tasks]),
        "transactions": _array([number for number, _ in rows]),
        "places": _array([names.setdefault(row.account, len(names) + 1) for _, row in rows]),
        "amounts": _array([posting.amount_ub for _, posting in rows]),
        "names": _array(names),
    }
    query(connection, "append", values)


class _Row(NamedTuple):
    """What `commit_tasks` wants of a settlement, as JSON, and the hash of its output's text."""

    json: str
    output_sha256: str


def _lock(
    connection: Connection, settlements: Sequence[Settlement]
) -> tuple[dict[str, TaskRow], dict[str, Standing], Any, dict[AttemptKey, _Row]]:
    """The settle lock, then the tasks and the paying accounts of a chunk, each in one order.

    And the log's head, and what is to be kept of each settlement: made while the server works.
    """
    ids = {settlement.key.task for settlement in settlements}
    accounts = {settlement.payer for settlement in settlements}
    with batch(connection):
        query(connection, "settle_lock", {"lock": SETTLE_LOCK})
        tasks = query(connection, "settle_tasks", {"ids": _array(ids)})
        standings = query(connection, "settle_accounts", {"accounts": list(accounts)})
        head = query(connection, "log_head")
        # Of an attempt that is there twice the first counts, as in the plan.
        rows = {settlement.key: _row(settlement) for settlement in reversed(settlements)}
    return (
        {row.id: _task(row) for row in tasks},
        {row.id: Standing(balance_ub=row.balance_ub, quota_ub=row.quota_ub) for row in standings},
        one(head),
        rows,
    )


def _task(row: Any) -> TaskRow:
    if row.parent is None:
        return TaskRow(row.attempt, row.state, row.in_flight, row.fenced)
    parent = AttemptKey(row.parent, row.parent_attempt)
    return TaskRow(row.attempt, row.state, row.in_flight, row.fenced, parent, row.left_ub)


def _row(settlement: Settlement) -> _Row:
    """The output goes as the very text that is hashed, and is kept as that text."""
    output = output_text(settlement.output)
    text = json.dumps(
        {
            "task": settlement.key.task,
            "attempt": settlement.key.attempt,
            "agent": settlement.agent,
            "cost_ub": settlement.cost_ub,
            "latency_s": settlement.latency_s,
            "reason": settlement.reason,
        }
    )
    return _Row(f'{text[:-1]}, "output": {output}}}', sha256(output.encode()).hexdigest())


def output_text(output: Json) -> str:
    """An output as it is kept and hashed: compact JSON in its own order, nothing escaped that need
    not be. Raises NotStorable for what is no text."""
    text = json.dumps(output, separators=(",", ":"), ensure_ascii=False)
    if not text.isascii() and SURROGATE.search(text):
        raise NotStorable("the output holds half a character")
    return text


def _leaf(page: Page, settlement: Settlement, postings: Sequence[Posting], sha256: str) -> bytes:
    return entries.settle(
        epoch=page.epoch,
        at=page.at,
        task=settlement.key.task,
        attempt=settlement.key.attempt,
        client=settlement.payer,
        agent=agent_account(settlement.agent),
        size=settlement.size,
        output_sha256=sha256,
        postings=postings,
    )


def _parts(
    keys: Sequence[AttemptKey], rows: Mapping[AttemptKey, _Row]
) -> Iterator[Sequence[AttemptKey]]:
    """One part after the other: a statement holds no more than PART_MAX characters of results, or a
    single one."""
    start = size = 0
    for end, key in enumerate(keys):
        size += len(rows[key].json)
        if size > PART_MAX and end > start:
            yield keys[start:end]
            start, size = end, len(rows[key].json)
    yield keys[start:]


def _array(values: Iterable[object]) -> str:
    """A PostgreSQL array of numbers, ids or accounts, which need no quotes.

    Of a list the driver looks at every element, which costs more than writing them.
    """
    return "{" + ",".join(map(str, values)) + "}"
