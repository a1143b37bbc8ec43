"""What the end of an epoch takes from accounts, and what it gives to clients. Row M07.

Pure; amounts are integer micro-credits, rates parts per million, times milliseconds since 1970.
Every share is floored: what a floor leaves stays with the account.

    demurrage = ⌊ρ⁺·max(0, b − θ⁺)⌋
    charge    = ⌊ρ⁻·max(0, −b − θ⁻)⌋, at most b + Q: no account is driven below its quota

Both go to `system:commons`. Accounts of the system are not cleared. An account that is younger
than the grace or settled fewer tasks than the minimum is spared the charge, not the demurrage. Of
the tasks it settled those count that it paid for or was paid for: a free one does not.

Then the clients whose budget blocked them are topped up, all by the same amount: the stated one,
or an equal floored share of the cap where it does not suffice for all. So nobody's name puts them
first, and what the floor leaves is given to nobody. The commons pay as long as they last, issuance
the rest; the order is that of the accounts' names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import islice, pairwise
from typing import Final, NamedTuple

from ledger.errors import BadInput, InvariantBroken
from ledger.money import AMOUNT_MAX_UB, PPM, UB
from ledger.postings import ISSUANCE, Posting
from ledger.proof.entries import POSTINGS_MAX

COMMONS = "system:commons"
SECONDS_MAX: Final = 10 * 366 * 86_400
SETTLED_MAX: Final = 1_000_000_000
_LINES: Final = 10_000  # of the balances' hash at a time: few calls, little memory


@dataclass(frozen=True, kw_only=True, slots=True)
class Clearing:
    """The parameters of clearing; the paper's, where it has them.

    Raises BadInput naming the field that is out of bounds.
    """

    theta_plus_ub: int = 500 * UB
    theta_minus_ub: int = 200 * UB
    rho_plus_ppm: int = 20_000
    rho_minus_ppm: int = 20_000
    grace_s: int = 7 * 86_400
    settled_min: int = 10
    top_up_ub: int = 0  # for one client and epoch
    top_up_cap_ub: int = 0  # for all clients of one epoch

    def __post_init__(self) -> None:
        for item in fields(self):
            value, most = getattr(self, item.name), _MOST[item.name]
            if type(value) is not int or not 0 <= value <= most:
                reason = f"{value!r} is not an integer from 0 to {most}"
                raise BadInput(f"clearing.{item.name}", reason, "use one in these bounds")
        if self.top_up_ub > self.top_up_cap_ub:
            reason = f"more than clearing.top_up_cap_ub ({self.top_up_cap_ub}), the cap of an epoch"
            raise BadInput("clearing.top_up_ub", reason, "raise the cap")


_MOST: Final = {
    "theta_plus_ub": AMOUNT_MAX_UB,
    "theta_minus_ub": AMOUNT_MAX_UB,
    "rho_plus_ppm": PPM,
    "rho_minus_ppm": PPM,
    "grace_s": SECONDS_MAX,
    "settled_min": SETTLED_MAX,
    "top_up_ub": AMOUNT_MAX_UB,
    "top_up_cap_ub": AMOUNT_MAX_UB,
}


class Member(NamedTuple):
    """An account at the end of an epoch. A tuple: a close passes a million of them."""

    account: str
    balance_ub: int
    quota_ub: int
    opened_ms: int
    settled: int  # tasks it paid for or was paid for, since it was opened


class Group(NamedTuple):
    """What one `clear` leaf moves: accounts by name, then the commons that receive it all."""

    postings: Sequence[Posting]
    demurrage_ub: int
    charge_ub: int


def due(member: Member, rule: Clearing, at_ms: int) -> int:
    """What clearing takes from one account: above zero demurrage, below zero charge, as it owes."""
    _, balance_ub, quota_ub, opened_ms, settled = member
    if balance_ub > rule.theta_plus_ub:
        return (balance_ub - rule.theta_plus_ub) * rule.rho_plus_ppm // PPM
    if -balance_ub <= rule.theta_minus_ub:
        return 0
    if settled < rule.settled_min or at_ms - opened_ms < rule.grace_s * 1000:
        return 0
    charge_ub = (-balance_ub - rule.theta_minus_ub) * rule.rho_minus_ppm // PPM
    return min(charge_ub, balance_ub + quota_ub)


def groups(members: Iterable[Member], rule: Clearing, at_ms: int) -> Iterator[Group]:
    """The groups of postings that clear these accounts, which come sorted by name.

    A group has POSTINGS_MAX postings at most, sums to zero, and is full unless it is the last:
    the accounts alone decide every byte of it. Reads `members` once, in order.
    """
    low_ub, high_ub, before = -rule.theta_minus_ub, rule.theta_plus_ub, ""
    taken: list[Posting] = []
    charge_ub = total_ub = 0
    for member in members:
        account, balance_ub = member[0], member[1]
        if account <= before or account.startswith("system:"):
            raise InvariantBroken(f"{account} is not an account to clear after {before!r}")
        before = account
        if low_ub <= balance_ub <= high_ub:
            continue
        amount_ub = due(member, rule, at_ms)
        if not amount_ub:
            continue
        taken.append(Posting(account, -amount_ub))
        total_ub += amount_ub
        if balance_ub < 0:
            charge_ub += amount_ub
        if len(taken) == POSTINGS_MAX - 1:
            yield _group(taken, total_ub, charge_ub)
            taken, charge_ub, total_ub = [], 0, 0
    if taken:
        yield _group(taken, total_ub, charge_ub)


def _group(taken: list[Posting], total_ub: int, charge_ub: int) -> Group:
    taken.append(Posting(COMMONS, total_ub))
    return Group(taken, total_ub - charge_ub, charge_ub)


def top_up_share(count: int, rule: Clearing) -> int:
    """What each of `count` blocked clients gets."""
    return min(rule.top_up_ub, rule.top_up_cap_ub // count) if count else 0


def top_ups(blocked: Sequence[str], commons_ub: int, rule: Clearing) -> Iterator[Sequence[Posting]]:
    """The postings that top up these clients' accounts, which come sorted by name.

    `commons_ub` is what the commons hold after clearing. Each group sums to zero and has
    POSTINGS_MAX postings at most.
    """
    for before, account in pairwise(["client:", *blocked]):
        if account <= before or not account.startswith("client:"):
            raise InvariantBroken(f"{account} is not a client to top up after {before}")
    share_ub = top_up_share(len(blocked), rule)
    rest = iter(blocked)
    while share_ub and (some := list(islice(rest, POSTINGS_MAX - 2))):
        postings = top_up(some, share_ub, commons_ub)
        commons_ub -= min(commons_ub, share_ub * len(some))
        yield postings


def top_up(accounts: Sequence[str], share_ub: int, commons_ub: int) -> Sequence[Posting]:
    """One group: the accounts, then the commons as long as they last, then issuance."""
    total_ub = share_ub * len(accounts)
    paid_ub = min(commons_ub, total_ub)
    payers = [Posting(COMMONS, -paid_ub), Posting(ISSUANCE, paid_ub - total_ub)]
    postings = [Posting(account, share_ub) for account in accounts]
    return postings + [payer for payer in payers if payer.amount_ub]


class BalancesHash:
    """SHA-256 over `account SPACE balance LF` of every non-zero balance, sorted by account.

    `update` may be called again with later accounts. Raises InvariantBroken when they come out of
    order: the hash would be another one, and nobody could say why.
    """

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._last = ""

    def update(self, balances: Iterable[tuple[str, int]]) -> None:
        """Add accounts with their balances in micro-credits."""
        rest = iter(balances)
        while some := list(islice(rest, _LINES)):
            names = [self._last, *(account for account, _ in some)]
            if any(later <= name for name, later in pairwise(names)):
                raise InvariantBroken("the balances are not sorted by account")
            self._last = names[-1]
            lines = [f"{account} {balance_ub}\n" for account, balance_ub in some if balance_ub]
            self._hash.update("".join(lines).encode())

    def hexdigest(self) -> str:
        """The hash of all that was added, in lower-case hexadecimal."""
        return self._hash.hexdigest()
