"""The end of an epoch as a replay sees it: its `clear`, `top_up` and `epoch_close` leaves.

Row M07; paper §7.3, App. A.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from ledger.clearing import COMMONS, Clearing, Member, groups, top_up, top_up_share
from ledger.postings import ISSUANCE
from ledger.proof.books import SYSTEM, Books, Broken
from ledger.proof.entries import millis


@dataclass(slots=True)
class Totals:
    """What moved in an epoch so far."""

    burned_ub: int = 0
    minted_ub: int = 0
    settled: int = 0


class Close:
    """One epoch's close, half done. Raises Broken for what the rule does not say."""

    def __init__(self, books: Books, rule: Clearing, totals: Totals, at: str) -> None:
        self._books, self._rule, self._totals, self._at = books, rule, totals, at
        self._names = sorted(books)
        self._groups = groups(self._members(), rule, millis(at))
        self._part = self._demurrage_ub = self._charge_ub = 0
        self._topped_up = self._top_up_ub = self._share_ub = 0
        self._last = ""  # the client topped up last

    def _members(self) -> Iterator[Member]:
        for name in self._names:
            if name not in SYSTEM:
                found = self._books[name]
                quota_ub = found.quota_ub or 0
                yield Member(name, found.balance_ub, quota_ub, found.opened_ms, found.settled)

    def require_time(self, at: str) -> None:
        """All leaves of a close have one time: ages are counted to it."""
        if at != self._at:
            raise Broken(f"this close has the time {self._at}, not {at}")

    def clear(self, entry: dict[str, Any]) -> None:
        """A group of accounts: the very one that is due."""
        group = next(self._groups, None)
        if group is None or entry["part"] != self._part:
            raise Broken(f"part {entry['part']}: part {self._part} may come, if any is due")
        wanted = [[account, str(amount_ub)] for account, amount_ub in group.postings]
        for stated, right in zip_longest(entry["postings"], wanted):
            if stated != right:
                raise Broken(f"clearing states {stated} where {right} is due")
        self._books.move(entry["postings"])
        self._part += 1
        self._demurrage_ub += group.demurrage_ub
        self._charge_ub += group.charge_ub

    def top_up(self, entry: dict[str, Any]) -> None:
        """The same for each client, by name; the commons pay first."""
        self._require_cleared()
        postings = entry["postings"]
        names = [account for account, _ in postings if account.startswith("client:")]
        if not names or names != sorted(names) or names[0] <= self._last:
            raise Broken("a top-up names clients, each once, by name")
        share_ub = self._share_ub or int(postings[0][1])
        if not 0 < share_ub <= self._rule.top_up_ub:
            raise Broken(f"a top-up of {share_ub}: {self._rule.top_up_ub} is the most")
        wanted = top_up(names, share_ub, self._books.known(COMMONS).balance_ub)
        if postings != [[account, str(amount_ub)] for account, amount_ub in wanted]:
            raise Broken(f"each client gets {share_ub}; the commons pay first, issuance the rest")
        self._totals.minted_ub -= self._books.move(postings).get(ISSUANCE, 0)
        self._share_ub = share_ub
        self._topped_up += len(names)
        self._top_up_ub += share_ub * len(names)
        self._last = names[-1]

    def end(self, entry: dict[str, Any]) -> None:
        """Everyone due was cleared, and the totals are ours."""
        self._require_cleared()
        if self._share_ub != top_up_share(self._topped_up, self._rule):
            raise Broken(f"{self._topped_up} clients were topped up by {self._share_ub} each")
        totals = {
            "accounts": len(self._books),
            "demurrage": str(self._demurrage_ub),
            "charge": str(self._charge_ub),
            "top_up": str(self._top_up_ub),
            "burned": str(self._totals.burned_ub),
            "minted": str(self._totals.minted_ub),
            "settled": self._totals.settled,
            "balances_sha256": self._books.sha256(self._names),
        }
        for name, value in totals.items():
            if entry[name] != value:
                raise Broken(f"{name} is {value}, not {entry[name]}")

    def _require_cleared(self) -> None:
        group = next(self._groups, None)
        if group is not None:
            raise Broken(f"{group.postings[0].account} is due and was not cleared")
