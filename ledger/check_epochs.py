"""The epochs' rows against what the leaves say of them. Row C7."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection

from ledger.db import scan
from ledger.postings import BURN, ISSUANCE
from ledger.proof.books import Books
from ledger.proof.entries import stamp

TOTALS: Final = {
    "accounts": "accounts",
    "demurrage_ub": "demurrage",
    "charge_ub": "charge",
    "top_up_ub": "top_up",
    "burned_ub": "burned",
    "minted_ub": "minted",
    "settled": "settled",
}
"""A total's name in the table, and in the leaf."""


class _Row(NamedTuple):
    epoch: int
    opened_at: datetime
    first: int
    transaction: int
    minted_ub: int
    burned_ub: int
    size: int | None
    closed_at: datetime | None
    totals: dict[str, int] | None
    balances_sha256: bytes | None


class Epochs:
    """The epochs in their order, as the leaves open and close them."""

    def __init__(self, connection: Connection) -> None:
        self._rows = map(_Row._make, scan(connection, "check_epoch_rows"))
        self._begin: dict[str, Any] = {}  # of the epoch that is open

    def begun(self, leaf: dict[str, Any], transaction: int) -> None:
        """The log's beginning: its parameters, then the accounts that are older."""
        if leaf["type"] == "params":
            self._open(1, leaf["at"], 0, transaction)
        elif leaf["account"] == ISSUANCE:
            self._begin["minted_ub"] = -int(leaf["balance"])
        elif leaf["account"] == BURN:
            self._begin["burned_ub"] = int(leaf["balance"])

    def closed(
        self, index: int, leaf: dict[str, Any], accounts: Books, transaction: int
    ) -> tuple[str, str] | None:
        """What is wrong with the row of an epoch that this leaf closes."""
        totals = {name: int(leaf[said]) for name, said in TOTALS.items()}
        fault = self._fault({
            "size": index + 1,
            "closed_at": leaf["at"],
            "totals": totals,
            "balances_sha256": leaf["balances_sha256"],
        })  # fmt: skip
        self._open(leaf["epoch"] + 1, leaf["at"], index + 1, transaction)
        self._begin["minted_ub"] = -accounts[ISSUANCE].balance_ub
        self._begin["burned_ub"] = accounts[BURN].balance_ub
        return fault

    def rest(self) -> Iterator[tuple[str, str]]:
        """What is wrong with the open epoch's row, and those that the log does not know."""
        still_open = ("size", "closed_at", "totals", "balances_sha256")
        fault = self._fault(dict.fromkeys(still_open))
        if fault is not None:
            yield fault
        for row in self._rows:
            yield f"epoch {row.epoch}", "the log has not come to it"

    def _open(self, epoch: int, at: str, first: int, transaction: int) -> None:
        self._begin = {
            "epoch": epoch, "opened_at": at, "first": first, "transaction": transaction
        }  # fmt: skip

    def _fault(self, end: dict[str, Any]) -> tuple[str, str] | None:
        """How the next row differs."""
        name, row = f"epoch {self._begin['epoch']}", next(self._rows, None)
        if row is None:
            return name, "it is in the log and not kept"
        kept = _shown(row)
        for field, right in (self._begin | end).items():
            if kept[field] != right:
                return name, f"its {field} is {kept[field]}, in the log {right}"
        return None


def _shown(row: _Row) -> dict[str, Any]:
    """The row as leaves state it."""
    closed_at, hashed = row.closed_at, row.balances_sha256
    return row._asdict() | {
        "opened_at": stamp(row.opened_at),
        "closed_at": None if closed_at is None else stamp(closed_at),
        "balances_sha256": None if hashed is None else hashed.hex(),
    }
