"""The accounts as the log knows them, and what may be done to them.

A replay's working memory: mutable, in one thread. Rows M05, M21.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from ledger.clearing import COMMONS, BalancesHash
from ledger.errors import ClearlaneError
from ledger.postings import BURN, ISSUANCE

SYSTEM: Final = frozenset({ISSUANCE, BURN, COMMONS})


class Broken(ClearlaneError):
    """A leaf does not follow from those before it; `replay` adds which leaf."""


@dataclass(slots=True)
class Account:
    """What the log says of one account. `quota_ub` None: no floor."""

    balance_ub: int
    quota_ub: int | None
    opened_ms: int
    settled: int  # tasks it paid for or was paid for


class Books(dict[str, Account]):
    """Accounts by name. Raises Broken for what no ledger does."""

    def known(self, name: str) -> Account:
        """An account that is open."""
        found = self.get(name)
        if found is None:
            raise Broken(f"{name} is not open")
        return found

    def open(self, name: str, account: Account) -> None:
        """A new account, within its quota; those of the system have theirs for good."""
        if name in self:
            raise Broken(f"{name} is open already")
        if name.startswith("system:"):
            if name not in SYSTEM or account.quota_ub != (None if name == ISSUANCE else 0):
                raise Broken(f"{name} with quota {account.quota_ub} is no account of the system")
        elif account.quota_ub is None:
            raise Broken(f"{name} has no quota")
        self[name] = account
        self.require_floor(name, account)

    def set_quota(self, name: str, quota_ub: int) -> None:
        """How far below zero an account may go from here on."""
        found = self.known(name)
        if name in SYSTEM:
            raise Broken(f"the quota of {name} never changes")
        found.quota_ub = quota_ub
        self.require_floor(name, found)

    def move(self, postings: Sequence[Sequence[str]]) -> dict[str, int]:
        """Apply [account, amount] pairs; what each account got."""
        moved = {name: int(amount) for name, amount in postings}
        if len(moved) < len(postings):
            raise Broken("an account is named twice")
        if sum(moved.values()):
            raise Broken(f"the postings sum to {sum(moved.values())}, not to 0")
        for name, amount_ub in moved.items():
            found = self.known(name)
            found.balance_ub += amount_ub
            self.require_floor(name, found)
        return moved

    def require_floor(self, name: str, account: Account) -> None:
        """No balance is below minus its quota."""
        quota_ub = account.quota_ub
        if quota_ub is not None and account.balance_ub < -quota_ub:
            raise Broken(f"{name} stands at {account.balance_ub}, below its quota of {quota_ub}")

    def sha256(self, names: Iterable[str]) -> str:
        """`balances_sha256` of these accounts, which come sorted."""
        found = BalancesHash()
        found.update((name, self[name].balance_ub) for name in names)
        return found.hexdigest()
