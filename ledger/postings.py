"""What a chunk of settlements does to the accounts, decided before anything is written.

Pure: balances in, postings out. One client that cannot pay never holds up its neighbours.
Rows M05, M06; paper section 6.3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from ledger.model import AttemptKey, Settlement
from ledger.money import split

BURN = "system:burn"
ISSUANCE = "system:issuance"


class Settled(StrEnum):
    """What became of one settlement."""

    PAID = "paid"
    ALREADY = "already"  # this attempt was settled before: nothing moved twice
    STALE = "stale"  # another attempt is in charge, or the task has ended otherwise
    NO_CREDIT = "no_credit"  # the balance would fall below the quota
    NO_BUDGET = "no_budget"  # the parent's budget does not pay for it
    FENCED = "fenced"  # its lane has changed hands: nothing of the holder before is accepted
    REFUSED = "refused"  # its result cannot be kept: the attempt has failed


class Posting(NamedTuple):
    """One movement on one account; the postings of a transaction sum to zero.

    A tuple, as `TaskRow`: a chunk makes hundreds of them while others wait for the settle lock.
    """

    account: str
    amount_ub: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """An account as read under lock. `quota_ub` None means no floor."""

    balance_ub: int
    quota_ub: int | None


class TaskRow(NamedTuple):
    """A task as read under lock."""

    attempt: int
    state: str
    in_flight: bool  # claimed and neither put back nor aborted since
    fenced: bool = False  # its lane accepts nothing of that claim's holder any more
    parent: AttemptKey | None = None  # of a subtask: the attempt that asked for it
    left_ub: int = 0  # and what is left of that attempt's budget


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """The outcome per settlement, and the payments to write, in the order of settlement."""

    outcomes: Mapping[AttemptKey, Settled]
    payments: Sequence[tuple[Settlement, Sequence[Posting]]]


def client_account(client: str) -> str:
    """The account a client pays from."""
    return f"client:{client}"


def agent_account(agent: str) -> str:
    """The account an agent is paid into."""
    return f"agent:{agent}"


def payment(settlement: Settlement, tau_ppm: int) -> list[Posting]:
    """The payer pays, τ of it burns, the agent gets the rest. Postings of zero are left out."""
    shares = split(settlement.cost_ub, tau_ppm)
    found = [
        Posting(settlement.payer, -settlement.cost_ub),
        Posting(agent_account(settlement.agent), shares.agent_ub),
        Posting(BURN, shares.burn_ub),
    ]
    return [posting for posting in found if posting.amount_ub]


def plan_settlements(
    settlements: Sequence[Settlement],
    tasks: Mapping[str, TaskRow],
    accounts: Mapping[str, Standing],
    tau_ppm: int,
) -> Plan:
    """Decide each settlement in turn against the balances that the earlier ones leave."""
    left_ub: dict[str, int] = {}
    budgets_ub: dict[AttemptKey, int] = {}
    outcomes: dict[AttemptKey, Settled] = {}
    payments: list[tuple[Settlement, Sequence[Posting]]] = []
    for settlement in settlements:
        account = settlement.payer
        outcome = _standing(settlement.key, tasks)
        if settlement.key in outcomes:
            continue  # the same attempt twice in one chunk is one settlement
        if outcome is Settled.PAID:
            spendable = left_ub.setdefault(account, _spendable(accounts[account]))
            if settlement.cost_ub > spendable:
                outcome = Settled.NO_CREDIT
            elif not _within(budgets_ub, tasks[settlement.key.task], settlement.cost_ub):
                outcome = Settled.NO_BUDGET
            else:
                left_ub[account] -= settlement.cost_ub
                payments.append((settlement, payment(settlement, tau_ppm)))
        outcomes[settlement.key] = outcome
    return Plan(outcomes=outcomes, payments=payments)


def _within(budgets_ub: dict[AttemptKey, int], task: TaskRow, cost_ub: int) -> bool:
    """Whether the parent's budget pays for it; if so, it is taken off."""
    if task.parent is None:
        return True
    left_ub = budgets_ub.setdefault(task.parent, task.left_ub)
    if cost_ub > left_ub:
        return False
    budgets_ub[task.parent] = left_ub - cost_ub
    return True


def _standing(key: AttemptKey, tasks: Mapping[str, TaskRow]) -> Settled:
    task = tasks.get(key.task)
    if task is None or task.attempt != key.attempt:
        return Settled.STALE
    if task.state == "COMMITTED":
        return Settled.ALREADY
    if not task.in_flight:
        return Settled.STALE
    return Settled.FENCED if task.fenced else Settled.PAID


def _spendable(account: Standing) -> int:
    return account.balance_ub + (account.quota_ub or 0)
