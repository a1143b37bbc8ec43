"""Claims and attempts: who may work on a task now, and how each try ended.

The attempt number is the fencing token: a claim raises it, and every later step must name it.
Rows M04, C2, C3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine

from ledger.db import (
    CLAIM_LOCK,
    READY,
    batch,
    dicts,
    instant,
    notify,
    notify_ended,
    one,
    query,
    report,
    single,
    transaction,
)
from ledger.log import Page, open_page
from ledger.model import AttemptKey, Failure, Json, Wait, Work
from ledger.postings import agent_account
from ledger.proof import entries

LOSSES_MAX = 3  # a task whose worker died this often is poison


class Claim(NamedTuple):
    """A claimed task. One that lost an attempt with its worker travels alone."""

    key: AttemptKey
    alone: bool
    lane: str


class Waiting(NamedTuple):
    """An attempt that found no seat."""

    key: AttemptKey
    wait: Wait
    ready_ms: int


def claim(
    engine: Engine, *, limit: int, hold: Mapping[str, int], margin_s: float, now: datetime
) -> list[Claim]:
    """Take up to `limit` ready tasks of each lane while fewer than `hold` of it are in flight.

    Of a lane that somebody else holds, or that drains, nothing. The claim ends after the family's
    deadline plus `margin_s`; whoever has not settled or failed the task by then has lost it.
    """
    values = {
        "limit": limit,
        "lanes": list(hold),
        "holds": list(hold.values()),
        "margin_s": margin_s,
        "now": now,
    }
    with single(engine) as connection:
        with batch(connection):
            query(connection, "claim_lock", {"lock": CLAIM_LOCK})
            rows = query(connection, "claim", values)
        found = rows.fetchall()
    return [Claim(AttemptKey(str(row.id), row.attempt), row.losses > 0, row.lane) for row in found]


def next_ready(engine: Engine, now: datetime) -> datetime | None:
    """When the next waiting task becomes worth a claim, None if nothing waits."""
    with single(engine) as connection:
        found: datetime | None = one(query(connection, "next_ready", {"now": now})).at
    return found


def works(engine: Engine, keys: Sequence[AttemptKey], now: datetime) -> list[Work]:
    """What the steps need to know; attempts that were overtaken, ended or expired are left out."""
    with single(engine) as connection:
        rows = query(
            connection,
            "work",
            {
                "ids": [key.task for key in keys],
                "attempts": [key.attempt for key in keys],
                "now": now,
            },
        ).fetchall()
    return [
        Work(
            key=AttemptKey(str(row.id), row.attempt),
            payer=row.payer,
            payer_owner=row.owner or "",
            family=row.family,
            size=row.size,
            avoid=row.avoid,
            lane=row.lane,
            fence=row.fence,
            fenced=row.fenced,
            **_part(row),
        )
        for row in rows
    ]


def _part(row: Any) -> dict[str, Any]:
    """What a subtask has beyond other tasks."""
    if row.parent is None:
        return {}
    return {
        "parent": AttemptKey(str(row.parent), row.parent_attempt),
        "chain": tuple(row.chain),
        "budget_ub": row.budget_ub,
        "outsourced_ub": int(row.outsourced_ub),
    }


def payloads(
    engine: Engine, tasks: Sequence[str], wanted_at: datetime | None = None
) -> dict[str, Json]:
    """The payload of each task; with `wanted_at`, of those alone that have not ended or expired
    by then, and were not claimed under a token of their lane that is too old (C6)."""
    with single(engine) as connection:
        rows = query(connection, "payloads", {"ids": list(tasks), "now": wanted_at}).fetchall()
    return {str(row.task): row.payload for row in rows}


def spendable_ub(engine: Engine, accounts: Sequence[str]) -> dict[str, int]:
    """Balance plus quota per account, as settled."""
    with single(engine) as connection:
        rows = query(connection, "spendable", {"accounts": list(accounts)}).fetchall()
    return {row.id: row.spendable_ub for row in rows}


def renew(engine: Engine, keys: Sequence[AttemptKey], until: datetime) -> None:
    """More time for the claims of attempts that were answered and wait to be judged or paid."""
    with single(engine) as connection:
        query(
            connection,
            "renew",
            {
                "ids": [key.task for key in keys],
                "attempts": [key.attempt for key in keys],
                "until": until,
            },
        )


def put_back(engine: Engine, waiting: Sequence[Waiting]) -> None:
    """Let attempts that found no seat wait again, saying why and until when."""
    with transaction(engine) as connection:
        query(
            connection,
            "put_back",
            {
                "ids": [item.key.task for item in waiting],
                "attempts": [item.key.attempt for item in waiting],
                "waits": [str(item.wait) for item in waiting],
                "ready": [instant(item.ready_ms) for item in waiting],
            },
        )
        notify(connection, READY)


def abort(engine: Engine, failures: Sequence[Failure], now: datetime) -> None:
    """Record failed attempts, each once, in the log as well; their tasks go back to INIT or into
    quarantine."""
    with transaction(engine) as connection:
        page, known = _page(connection, failures, now)
        once = {item.key: item for item in reversed(failures) if item.key not in known}
        new = list(once.values())
        if not new:
            return
        rows = query(connection, "abort", _aborted(new, now)).fetchall()
        page.add(*(_leaf(page, item) for item in new))
        page.write(connection)
        ended = [str(row.id) for row in rows if row.state != "INIT"]
        if ended:
            notify_ended(connection, ended)
        notify(connection, READY)


def _page(
    connection: Connection, failures: Sequence[Failure], now: datetime
) -> tuple[Page, set[AttemptKey]]:
    """A page of the log, and which of these attempts have ended already. Who holds the page is the
    only one who ends attempts."""
    page = open_page(connection, now)
    values = {
        "ids": [item.key.task for item in failures],
        "attempts": [item.key.attempt for item in failures],
    }
    rows = query(connection, "attempts_ended", values)
    return page, {AttemptKey(task=row.task, attempt=row.attempt) for row in rows}


def _aborted(failures: Sequence[Failure], now: datetime) -> dict[str, Any]:
    known = [item.penalty for item in failures]
    return {
        "ids": [item.key.task for item in failures],
        "attempts": [item.key.attempt for item in failures],
        "outcomes": [str(item.outcome) for item in failures],
        "agents": [item.agent for item in failures],
        "costs": [item.cost_ub for item in failures],
        "latencies": [item.latency_s for item in failures],
        "reasons": [item.reason for item in failures],
        "f_before": [item and item.f_before for item in known],
        "f_after": [item and item.f_after for item in known],
        "s_before": [item and item.s_before for item in known],
        "s_after": [item and item.s_after for item in known],
        "losses_max": LOSSES_MAX,
        "now": now,
    }


def _leaf(page: Page, failure: Failure) -> bytes:
    what: dict[str, Any] = {
        "epoch": page.epoch,
        "at": page.at,
        "task": failure.key.task,
        "attempt": failure.key.attempt,
        "outcome": str(failure.outcome),
    }
    penalty = failure.penalty
    if failure.agent is None or penalty is None:
        return entries.abort(**what)
    return entries.abort_blaming(
        **what,
        agent=agent_account(failure.agent),
        f=(penalty.f_before, penalty.f_after),
        s=(penalty.s_before, penalty.s_after),
    )


def expire(engine: Engine, *, limit: int, now: datetime) -> int:
    """End tasks whose time is over; returns how many."""
    with transaction(engine) as connection:
        rows = query(connection, "expire", {"now": now, "limit": limit}).fetchall()
        if rows:
            notify_ended(connection, [str(row.id) for row in rows])
    return len(rows)


def set_back(engine: Engine, *, ahead_s: float, margin_s: float, now: datetime) -> int:
    """Let go of what waits for an instant that only a clock ahead of today's can have written.

    `ahead_s` is longer than any wait but a claim's. Returns how many tasks it was.
    """
    with transaction(engine) as connection:
        values = {"ahead_s": ahead_s, "margin_s": margin_s, "now": now}
        rows = query(connection, "set_back", values).fetchall()
        if rows:
            notify(connection, READY)
    return len(rows)


def ended_since(engine: Engine, since: datetime, *, limit: int) -> list[dict[str, Any]]:
    """Attempts that ended after `since`, oldest first, as rows of `attempts_since.sql`."""
    with single(engine) as connection:
        rows = query(connection, "attempts_since", {"since": since, "limit": limit})
        return dicts(rows)


def agent_results(engine: Engine) -> list[dict[str, Any]]:
    """Tries, passes, failures and earnings per agent, as rows of `agent_results.sql`."""
    with report(engine) as connection:
        return dicts(query(connection, "agent_results"))
