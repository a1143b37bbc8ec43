"""The whole installation recomputed: the ledger's invariants, and Redis once nothing is in flight.

Rows M05, M06; invariants C1 to C5.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ledger import accounts, check
from ledger.check import Violation
from scheduler.pool import MT, gives_back
from tasks.context import Context

SYSTEM = "system:"  # pays for no task


@dataclass(frozen=True, kw_only=True, slots=True)
class Audit:
    """What was found. While `in_flight` is not 0, what Redis holds is in use and proves nothing."""

    violations: list[Violation]
    totals: Mapping[str, Any]
    in_flight: int


def audit(context: Context) -> Audit:
    """Check everything. Raises Unavailable when PostgreSQL or Redis is away."""
    found = check.violations(context.engine)
    leaks, in_flight = _leaks(context)
    return Audit(
        violations=[*found, *leaks], totals=check.totals(context.engine), in_flight=in_flight
    )


def _leaks(context: Context) -> tuple[list[Violation], int]:
    """Credit or capacity that nobody holds and nobody gave back (C4, C5)."""
    before = context.reservations.count_in_flight()
    leaks = list(_suspects(context))
    in_flight = max(before, context.reservations.count_in_flight())
    return ([] if in_flight else leaks), in_flight


def _suspects(context: Context) -> Iterator[Violation]:
    agents = context.registry().agents
    payers = [
        row["account"]
        for row in accounts.balances(context.engine)
        if not row["account"].startswith(SYSTEM)
    ]
    pools, credits = context.reservations.look(list(agents), payers)
    for name, credit in credits.items():
        if credit.reserved_ub:
            said = f"{credit.reserved_ub} µB are reserved though nothing is in flight"
            yield Violation(invariant="C4", subject=f"account {name}", violation=said)
    for name, (pool, _) in pools.items():
        agent, subject = agents[name], f"agent {name}"
        if pool.in_flight:
            said = f"{pool.in_flight} slots are taken though nothing is in flight"
            yield Violation(invariant="C5", subject=subject, violation=said)
        full_mt = agent.y_max * MT
        if pool.y_mt > full_mt or (gives_back(agent) and pool.y_mt < full_mt):
            said = (
                f"{pool.y_mt / MT:g} of {agent.y_max} tokens are free though nothing is in flight"
            )
            yield Violation(invariant="C5", subject=subject, violation=said)
