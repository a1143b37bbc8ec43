"""Every leaf of the log, replayed and held against the tables. Row C7.

The replay is the one that replicas do: it says whether a leaf follows from those before it. What
they cannot see is seen here: that transactions, results, attempts, accounts, epochs, keys and
parameters are what the leaves say. Memory grows with the accounts, not with the leaves.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection

from ledger.check_attempts import Attempts
from ledger.check_books import Books
from ledger.check_epochs import Epochs
from ledger.db import query, scan
from ledger.params import params_of
from ledger.proof.entries import stamp
from ledger.proof.replay import State, Violation

MOVING: Final = frozenset({"mint", "settle", "clear", "top_up"})  # leaves that have a transaction

Fault = tuple[str, str]
"""Subject and violation."""


class _Unique:
    """The tasks settled so far, which nobody keeps: each has one transaction, by a key of its
    table, and each transaction has one leaf."""

    def add(self, task: str) -> bool:  # noqa: ARG002 -- it is what a replay asks
        """Every task is new."""
        return True


class _Replay(State):
    """A replay that shows the leaf it applied last: nothing is decoded twice."""

    def __init__(self) -> None:
        super().__init__(_Unique())
        self.leaf: dict[str, Any] = {}

    def _apply(self, entry: dict[str, Any]) -> None:
        self.leaf = entry
        super()._apply(entry)


class Leaves:
    """The leaves, one after the other; `rest` when all were there."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._state = _Replay()
        self._books = Books(connection)
        self._epochs = Epochs(connection)
        self._attempts = Attempts(connection)
        self._page: datetime | None = None
        self._at = ""  # of the page

    def fault(self, entry: bytes, epoch: int | None, at: datetime) -> Fault | None:
        """What is wrong with the next leaf, on a page of this epoch and time."""
        state = self._state
        index = state.size
        try:
            state.apply(index, entry)
        except Violation as error:
            return f"leaf {index}", error.reason
        if at is not self._page:
            self._page, self._at = at, stamp(at)
        leaf = state.leaf
        if leaf["epoch"] != epoch:
            return f"leaf {index}", f"it says epoch {leaf['epoch']} on a page of epoch {epoch}"
        if leaf["at"] != self._at and "balance" not in leaf:  # an older account has its own time
            return f"leaf {index}", f"it says {leaf['at']} on a page of {self._at}"
        return self._against_tables(index, leaf)

    def _against_tables(self, index: int, leaf: dict[str, Any]) -> Fault | None:
        kind = leaf["type"]
        if kind in MOVING:
            reason = self._books.fault(index, leaf)
            return None if reason is None else (f"leaf {index}", reason)
        if kind == "abort":
            return self._attempts.fault(index, leaf)
        if kind == "key":
            return self._key(index)
        if kind == "freeze":
            return f"leaf {index}", f"it says that {leaf['account']} was frozen, and none ever is"
        if kind == "epoch_close":
            return self._epochs.closed(index, leaf, self._state.accounts, self._books.next_id)
        if index == 0 or "balance" in leaf:
            self._epochs.begun(leaf, self._books.next_id)
        return None

    def _key(self, index: int) -> Fault | None:
        if query(self._connection, "check_key", {"leaf": index}).fetchone() is None:
            return f"leaf {index}", "it announces a key that is not kept"
        return None

    def rest(self) -> Iterator[Fault]:
        """What the tables have that no leaf says, and what all leaves add up to otherwise."""
        last = self._attempts.last()
        if last is not None:
            yield last
        unknown = self._books.rest()
        if unknown is not None:
            yield unknown, "its leaf is not in the log"
        if not self._state.size:
            return
        try:
            self._state.require_rest()
        except Violation as error:
            yield f"leaf {error.index}", error.reason
        yield from self._attempts.uncounted()
        yield from self._epochs.rest()
        yield from self._accounts()
        yield from self._params()

    def _accounts(self) -> Iterator[Fault]:
        left = dict(self._state.accounts)
        for account, quota_ub, balance_ub, opened_ms, settled in scan(
            self._connection, "check_accounts"
        ):
            said = left.pop(account, None)
            if said is None:
                yield f"account {account}", "no leaf opened it"
                continue
            # How many movements the system's own accounts had counts for nothing: no leaf says it.
            counted = settled if account.startswith("system:") else said.settled
            for name, kept, right in (
                ("balance", balance_ub, said.balance_ub),
                ("quota", quota_ub, said.quota_ub),
                ("time of opening", opened_ms, said.opened_ms),
                ("count of tasks", settled, counted),
            ):
                if kept != right:
                    yield f"account {account}", f"its {name} is {kept}, in the log {right}"
        for account in left:
            yield f"account {account}", "a leaf opened it, and it is gone"

    def _params(self) -> Iterator[Fault]:
        stored = params_of(self._connection)
        clearing = stored.get("clearing")
        kept = clearing if isinstance(clearing, dict) else {}
        found = {name: json.dumps(value) for name, value in kept.items()}
        if "tau_ppm" in stored:
            found["tau_ppm"] = json.dumps(stored["tau_ppm"])
        said = self._state.params
        for name in sorted(said.keys() | found.keys()):
            if found.get(name) != said.get(name):
                is_now = found.get(name, "not kept")
                right = said.get(name, "none such")
                yield f"parameter {name}", f"it is {is_now}, in the log {right}"
