"""What a monitor wants to know of the ledger, from queries whose cost does not grow with history.

Each reading is one transaction with a time limit of its own. How much each costs at a million
tasks is in `docs/reference/metrics.md`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Engine

from ledger.db import dicts, one, query, report
from ledger.model import TaskState, Wait

LIMIT_MS = 2_000  # of one statement


@dataclass(frozen=True, kw_only=True, slots=True)
class Waiting:
    """Tasks in INIT for one reason, and when the first of them was submitted."""

    tasks: int
    since: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """Since when the first task that may be dispatched waits for that (None: there is none), and
    how many claims have not ended."""

    since: datetime | None
    in_flight: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Books:
    """The ledger's totals.

    clients_ub, agents_ub, commons_ub: what they hold. transactions: the id of the next one.
    registry_version: grows with each change of agents, families and parameters.
    """

    transactions: int
    settlements: int
    minted_ub: int
    burned_ub: int
    clients_ub: int
    agents_ub: int
    commons_ub: int
    registry_version: int


@dataclass(frozen=True, kw_only=True, slots=True)
class LogState:
    """Sizes in leaves; None: there is none yet.

    signed: of the newest checkpoint. final: of the newest one that the quorum has signed, at
    quorum_at. waits_since: when the first checkpoint after that one was signed. epoch: the open
    one. closed: the last one that has closed, closed_final: whether the quorum has signed it.
    """

    size: int
    signed: int | None
    signed_at: datetime | None
    final: int | None
    quorum_at: datetime | None
    waits_since: datetime | None
    epoch: int
    opened_at: datetime
    closed: int | None
    closed_final: bool


def waiting(engine: Engine) -> dict[Wait, Waiting]:
    """Tasks that have not ended, by reason. Cost grows with their number, not with history."""
    with report(engine) as connection:
        query(connection, "gauge_limit", {"limit_ms": LIMIT_MS})
        rows = query(connection, "gauge_waiting").fetchall()
    return {Wait(row.wait): Waiting(tasks=row.tasks, since=row.since) for row in rows}


def line(engine: Engine, now: datetime) -> Line:
    """What the dispatcher has before it. Reads one entry of an index, and the claims."""
    with report(engine) as connection:
        query(connection, "gauge_limit", {"limit_ms": LIMIT_MS})
        row = one(query(connection, "gauge_line", {"now": now}))
    return Line(since=row.since, in_flight=row.in_flight)


def books(engine: Engine) -> Books:
    """Totals, from dense ids and kept balances: only what is no settlement is counted."""
    with report(engine) as connection:
        query(connection, "gauge_limit", {"limit_ms": LIMIT_MS})
        row = one(query(connection, "gauge_books"))
    return Books(
        transactions=row.transactions,
        settlements=row.transactions - row.others,
        minted_ub=int(row.minted_ub),
        burned_ub=int(row.burned_ub),
        clients_ub=int(row.clients_ub),
        agents_ub=int(row.agents_ub),
        commons_ub=int(row.commons_ub),
        registry_version=row.registry_version,
    )


def unsettled(engine: Engine) -> dict[TaskState, int]:
    """Tasks that ended in another way than by a settlement."""
    with report(engine) as connection:
        query(connection, "gauge_limit", {"limit_ms": LIMIT_MS})
        rows = query(connection, "gauge_ended").fetchall()
    return {TaskState(row.state): row.tasks for row in rows}


def log(engine: Engine) -> LogState:
    """How long the log is, how far it is signed, and how far that is final."""
    with report(engine) as connection:
        query(connection, "gauge_limit", {"limit_ms": LIMIT_MS})
        (row,) = dicts(query(connection, "gauge_log"))
    return LogState(**row)
