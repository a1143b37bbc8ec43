"""The attempts that failed against the leaves that say so. Row C7."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from sqlalchemy import Connection

from ledger.db import one, query
from ledger.proof.entries import stamp

LEAVES: Final = 1000  # looked up at a time


class Attempts:
    """The `abort` leaves, looked up some at a time: attempts have an order of their own."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._leaves: list[tuple[int, dict[str, Any]]] = []
        self._found = 0

    def fault(self, index: int, leaf: dict[str, Any]) -> tuple[str, str] | None:
        """What is wrong with this leaf's attempt, or with one before it."""
        self._leaves.append((index, leaf))
        return self.last() if len(self._leaves) == LEAVES else None

    def last(self) -> tuple[str, str] | None:
        """What is wrong with those that were not looked up yet."""
        leaves, self._leaves = self._leaves, []
        values = {
            "ids": [leaf["task"] for _, leaf in leaves],
            "attempts": [leaf["attempt"] for _, leaf in leaves],
        }
        rows = {
            (row.task, row.attempt): row
            for row in query(self._connection, "check_attempts", values)
        }
        for index, leaf in leaves:
            row = rows.get((leaf["task"], leaf["attempt"]))
            if row is None:
                return f"leaf {index}", f"{_name(leaf)} is not kept as a failure"
            reason = _differs(row, leaf)
            if reason is not None:
                return f"leaf {index}", reason
            self._found += bool(row.counted)
        return None

    def uncounted(self) -> Iterator[tuple[str, str]]:
        """Failures that no leaf says. Those that ended before the log began have none."""
        kept = one(query(self._connection, "check_failures")).failures
        if kept != self._found:
            yield "attempts", f"{kept} failed since the log began, but {self._found} have a leaf"


def _name(leaf: dict[str, Any]) -> str:
    return f"attempt {leaf['attempt']} of task {leaf['task']}"


def _differs(row: Any, leaf: dict[str, Any]) -> str | None:
    agent = None if row.agent is None or row.f_before is None else f"agent:{row.agent}"
    pairs: list[tuple[str, Any, Any]] = [
        ("outcome", row.outcome, leaf["outcome"]),
        ("end", stamp(row.ended_at), leaf["at"]),
        ("agent", agent, leaf.get("agent")),
    ]
    if agent is not None:
        pairs += [
            ("f", [repr(row.f_before), repr(row.f_after)], leaf.get("f")),
            ("s", [repr(row.s_before), repr(row.s_after)], leaf.get("s")),
        ]
    for name, kept, right in pairs:
        if kept != right:
            return f"{_name(leaf)}: its {name} is {kept}, not {right}"
    return None
