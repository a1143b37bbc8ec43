"""Prices too small for the unit of account: such a task is settled, and its agent gets nothing."""

from __future__ import annotations

from ledger.registry import Registry
from scheduler.pool import MT, cost_ub


def gratis(registry: Registry) -> list[str]:
    """A line for each family that an idle agent does for 0 µB, since prices are rounded down."""
    lines = []
    for family in registry.families.values():
        size_mt = family.size * MT
        free = [
            agent.id
            for agent in registry.agents.values()
            if size_mt < agent.y_max * MT and cost_ub(agent.k, agent.y_max * MT, size_mt) == 0
        ]
        if free:
            who = f"agent {free[0]}" + (f" and {len(free) - 1} more" if len(free) > 1 else "")
            lines.append(
                f"family {family.id}: its size, {family.size}, costs 0 B on {who} when idle; "
                "raise k there, or nobody is paid"
            )
    return lines
