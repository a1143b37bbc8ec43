"""Subtasks: an agent that works on a task pays others for parts of it from its own account.

Row M23; paper section 7.4. A subtask belongs to an attempt of its parent. It is part of a chain of
agents that wait for each other, none of which may work on it; chains are short, an attempt has few
subtasks, and all of them together cost no more than its agent gets for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Engine

from ledger import intake
from ledger.db import dicts, notify_ended, one, query, single, transaction
from ledger.errors import Conflict, NotFound
from ledger.intake import Accepted, Origin, Submission
from ledger.model import AttemptKey
from ledger.postings import agent_account

SUBTASKS_MAX: Final = 32  # of one attempt
DEPTH_MAX: Final = 4  # agents that wait for each other; the schema says the same


@dataclass(frozen=True, kw_only=True, slots=True)
class Parent:
    """An attempt in flight, its agent, and what all of its subtasks may cost together."""

    key: AttemptKey
    agent: str
    budget_ub: int


def add(
    engine: Engine, parent: Parent, submissions: Sequence[Submission], now: datetime
) -> list[Accepted]:
    """Accept all subtasks, durably, in the order given, or none.

    They take their parent's place in the line. Raises NotFound when the parent's attempt is over,
    Conflict when there would be too many or the chain too long, else as `intake.submit`.
    """
    values = {"id": parent.key.task, "attempt": parent.key.attempt, "now": now}
    with transaction(engine) as connection:
        row = query(connection, "parent", values).fetchone()
        if row is None:
            raise over(parent.key, parent.agent)
        chain = [*row.chain, parent.agent]
        if len(chain) > DEPTH_MAX:
            raise Conflict(
                "parent",
                f"{len(chain) - 1} agents wait for it already",
                "do this part without help",
            )
        origin = Origin(
            payer=agent_account(parent.agent),
            ready_at=row.submitted_at,
            parent=parent.key,
            chain=chain,
            budget_ub=parent.budget_ub,
        )
        accepted = intake.add(connection, origin, submissions, now)
        count = one(query(connection, "parts", values)).count
        if count > SUBTASKS_MAX:
            raise Conflict(
                "parent",
                f"its attempt would have {count} subtasks",
                f"use {SUBTASKS_MAX} at most",
            )
    return accepted


def parts(engine: Engine, task: str) -> list[dict[str, Any]]:
    """The subtasks of a task, of all its attempts: `task`, `attempt` of the parent, `state`,
    `family`, `size`, `budget_ub` of all of that attempt, and `agent` and `cost_ub` once paid."""
    with single(engine) as connection:
        found = dicts(query(connection, "parts_of", {"id": task}))
    return [row | {"task": str(row["task"])} for row in found]


def over(parent: AttemptKey, agent: str) -> NotFound:
    """The refusal for a parent that is not in flight at the agent, whatever else it may be."""
    return NotFound(
        "parent",
        f"agent {agent} is not working on attempt {parent.attempt} of {parent.task}",
        "name the task and the attempt of the call that you are answering",
    )


def cancel_orphans(engine: Engine, *, limit: int, now: datetime) -> int:
    """End subtasks that wait although nobody waits for them any more; returns how many."""
    with transaction(engine) as connection:
        rows = query(connection, "orphans", {"now": now, "limit": limit}).fetchall()
        if rows:
            notify_ended(connection, [str(row.id) for row in rows])
    return len(rows)
