"""The transactions with their postings and results against the leaves that say them. Row C7."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection

from ledger.db import one, query, scan
from ledger.proof.entries import stamp

ROWS: Final = 1000  # in memory at a time


class _Row(NamedTuple):
    """A transaction that has a leaf. From `payer` on: of its task, None where it has none."""

    number: int
    leaf: int
    kind: str
    task: str | None
    at: datetime
    postings: list[str] | None
    payer: str | None
    size: int | None
    ended_at: datetime | None
    agent: str | None
    attempt: int | None
    cost_ub: int | None
    output_sha256: str | None


class Books:
    """The transactions, in the order of their leaves."""

    def __init__(self, connection: Connection) -> None:
        self._end: int = one(query(connection, "check_end")).transaction
        self._rows: Iterator[_Row] = map(
            _Row._make, scan(connection, "check_transactions", at_a_time=ROWS)
        )
        self._next = next(self._rows, None)

    @property
    def next_id(self) -> int:
        """The id of the next transaction that has a leaf, or will have one."""
        return self._end if self._next is None else self._next.number

    def fault(self, index: int, leaf: dict[str, Any]) -> str | None:
        """What is wrong with a leaf that moved credit, or with its transaction."""
        row, self._next = self._next, next(self._rows, None)
        if row is None or row.leaf != index:
            return f"no transaction has this {leaf['type']} leaf"
        name = f"transaction {row.number}"
        if (row.kind, row.task) != (leaf["type"], leaf.get("task")):
            return f"{name} is a {row.kind} of task {row.task}"
        if sorted(row.postings or []) != sorted([f"{a} {ub}" for a, ub in leaf["postings"]]):
            return f"{name} has other postings"
        if stamp(row.at) != leaf["at"]:
            return f"{name} is of {row.at.isoformat()}, not of {leaf['at']}"
        return None if row.task is None else _settled(row, leaf)

    def rest(self) -> str | None:
        """The first transaction whose leaf never came."""
        return None if self._next is None else f"transaction {self._next.number}"


def _settled(row: _Row, leaf: dict[str, Any]) -> str | None:
    """What a settlement's task, result or attempt say otherwise."""
    postings = leaf["postings"]
    cost_ub = -int(postings[0][1]) if postings else 0
    # Where something was paid, C2 holds the payer against the postings, and those are the leaf's.
    payer = row.payer if postings else leaf["client"]
    for name, kept, right in (
        ("payer", row.payer, payer),
        ("size", str(row.size), leaf["size"]),
        ("agent", f"agent:{row.agent}", leaf["agent"]),
        ("attempt", row.attempt, leaf["attempt"]),
        ("cost", row.cost_ub, cost_ub),
        ("output's SHA-256", row.output_sha256, leaf["output_sha256"]),
        ("end", row.ended_at, row.at),
    ):
        if kept != right:
            return f"task {row.task}: its {name} is {kept}, not {right}"
    return None
