"""`ledger check`: recompute everything and name each violation (C1-C4, C7 and C8)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine

from ledger.check_checkpoints import checkpoint_violations
from ledger.check_log import log_violations
from ledger.db import dicts, query, report, transaction


@dataclass(frozen=True, kw_only=True, slots=True)
class Violation:
    """An invariant that does not hold, and where."""

    invariant: str
    subject: str
    violation: str


def violations(engine: Engine) -> list[Violation]:
    """All violations that PostgreSQL alone can show; an empty list means that all holds.

    Of one instant, so that the ledger may be at work meanwhile.
    """
    with transaction(engine) as connection:
        query(connection, "check_instant")  # before anything is read
        query(connection, "report")
        rows = [*query(connection, "check"), *query(connection, "check_epochs")]
        log = [*log_violations(connection), *checkpoint_violations(connection)]
    return [
        *(
            Violation(invariant=row.invariant, subject=row.subject, violation=row.violation)
            for row in rows
        ),
        *(Violation(invariant="C7", subject=subject, violation=text) for subject, text in log),
    ]


def totals(engine: Engine) -> dict[str, Any]:
    """Counts and sums: what was minted, burned, and stands with whom."""
    with report(engine) as connection:
        return dicts(query(connection, "totals"))[0]
