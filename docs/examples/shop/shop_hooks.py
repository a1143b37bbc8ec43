"""What a shop wants of its agents: no price beyond its margin, and no wrong bills."""

from ledger.model import Verdict, Work
from scheduler.hooks import hookimpl
from scheduler.judgement import Adjustment, RiskJump

CAP_UB = 50_000  # per token: 0.05 B
BILLS = "bill"
WRONG_BILL = RiskJump(delta=2.0)


@hookimpl
def before_task(work: Work, cost_ub: int) -> bool:
    """True forbids the pairing: the task waits, or another agent gets it."""
    return cost_ub > CAP_UB * work.size


@hookimpl
def on_validate(work: Work, verdict: Verdict) -> list[Adjustment]:
    """Besides what the built-in policy asks for."""
    if work.family == BILLS and verdict.severe:
        return [WRONG_BILL]
    return []
