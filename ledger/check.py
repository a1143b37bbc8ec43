"""`ledger check`: recompute everything and name each violation (C1-C4 of the invariants)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine

from ledger.db import dicts, query, report


@dataclass(frozen=True, kw_only=True, slots=True)
class Violation:
    """An invariant that does not hold, and where."""

    invariant: str
    subject: str
    violation: str


def violations(engine: Engine) -> list[Violation]:
    """All violations that PostgreSQL alone can show; an empty list means that all holds."""
    with report(engine) as connection:
        rows = query(connection, "check").fetchall()
    return [
        Violation(invariant=row.invariant, subject=row.subject, violation=row.violation)
        for row in rows
    ]


def totals(engine: Engine) -> dict[str, Any]:
    """Counts and sums: what was minted, burned, and stands with whom."""
    with report(engine) as connection:
        return dicts(query(connection, "totals"))[0]
