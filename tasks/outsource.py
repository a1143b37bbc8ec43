"""An agent asks others for help, by subtasks, while its own call is out. Row M23, paper 7.4."""

from __future__ import annotations

from collections.abc import Sequence

from ledger import intake, subtasks
from ledger.errors import ClearlaneError, Conflict
from ledger.intake import Accepted, Submission
from ledger.model import AttemptKey, SagaState
from ledger.money import show_b, split
from ledger.postings import agent_account
from ledger.subtasks import Parent
from scheduler.saga import Saga
from tasks.context import Context


def outsource(
    context: Context, agent: str, parent: AttemptKey, wanted: Sequence[Submission]
) -> list[Accepted]:
    """Accept subtasks of an attempt that `agent` is working on now, all or none, durably.

    They may cost together what the agent gets for the attempt: its price less the burn. Raises
    NotFound when the attempt is not in flight at this agent, Conflict when its budget is spent,
    else as `ledger.subtasks.add`. What was accepted before is found again at any time.
    """
    (saga,) = context.reservations.read([parent])
    if saga is None or not _works(saga, agent):
        return _again(context, agent, parent, wanted, subtasks.over(parent, agent))
    budget_ub = split(saga.cost_ub, context.registry().tau_ppm).agent_ub
    if saga.outsourced_ub >= budget_ub:
        reason = f"its budget of {show_b(budget_ub)} B is spent"
        spent = Conflict("parent", reason, "do the rest without help")
        return _again(context, agent, parent, wanted, spent)
    asked = Parent(key=parent, agent=agent, budget_ub=budget_ub)
    return subtasks.add(context.engine, asked, wanted, context.now())


def _again(
    context: Context,
    agent: str,
    parent: AttemptKey,
    wanted: Sequence[Submission],
    refusal: ClearlaneError,
) -> list[Accepted]:
    """Those that were accepted before, if all were. Raises the refusal."""
    found = intake.again(context.engine, agent_account(agent), parent, wanted)
    if found is None:
        raise refusal
    return found


def _works(saga: Saga, agent: str) -> bool:
    """Whether the call to this agent is out."""
    return saga.agent == agent and saga.state is SagaState.EXECUTING and saga.reply is None
