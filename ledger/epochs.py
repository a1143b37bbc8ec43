"""Epochs: every so often accounts are cleared, in one transaction with the end of the epoch's log.

The close holds the settle lock, so a settlement is before it or after it, in one epoch only. An
epoch that was due long ago closes once, when somebody comes: its rates are per epoch, and nobody
pays for our absence. A quiet one closes as well: what is hoarded melts with time, and the log says
that nothing happened instead of nothing. Rows M07, C8; paper §7.3.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, Engine

from ledger.checkpoints import sign_end
from ledger.clearing import COMMONS, BalancesHash, Clearing, Group, Member, groups, top_ups
from ledger.db import dicts, one, query, report, scan, single
from ledger.errors import InvariantBroken, NotFound
from ledger.log import Head, Page, open_page
from ledger.params import clearing_of, epoch_s_of, params_of
from ledger.postings import Posting
from ledger.proof import entries
from ledger.proof.entries import millis
from ledger.proof.notes import Signer
from ledger.settle import append

LEAVES: Final = 16  # of clearing in one page: what is in memory at a time, here and with readers


@dataclass(frozen=True, kw_only=True, slots=True)
class Totals:
    """What an epoch moved. `accounts` is how many there were at its end."""

    accounts: int
    demurrage_ub: int
    charge_ub: int
    top_up_ub: int
    burned_ub: int
    minted_ub: int
    settled: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Epoch:
    """A span of the log: leaves `first` up to `size`, None while it is open. `final_at`: when the
    quorum had signed all of it."""

    epoch: int
    opened_at: datetime
    closed_at: datetime | None
    final_at: datetime | None
    first: int
    size: int | None
    totals: Totals | None
    balances_sha256: str | None

    @property
    def begun(self) -> bool:
        """Whether the log had a leaf. The first epoch is there before, since 1970."""
        return self.opened_at.timestamp() > 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Move:
    """What a close takes from an account (below zero) or gives it, and what it has then. `kind`:
    `clear` or `top_up`."""

    account: str
    kind: str
    amount_ub: int
    balance_ub: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Preview:
    """What a close would do. `moves` are the largest of `moved`; the system's side is left out."""

    epoch: int
    totals: Totals
    moved: int
    moves: Sequence[Move]


def due(engine: Engine, now: datetime) -> int | None:
    """The open epoch, if its time is over. A log that has not begun has none.

    It is over as well when it was opened more than its length ahead of now: by a clock that has
    been put right since, and would not come there again for as long as it was wrong.
    """
    with single(engine) as connection:
        found = one(query(connection, "epoch_open"))
        length = timedelta(seconds=epoch_s_of(params_of(connection)))
    over = abs(now - found.opened_at) >= length
    return found.id if found.begun and over else None


def opened(engine: Engine) -> int:
    """The open epoch."""
    with single(engine) as connection:
        return int(one(query(connection, "epoch_open")).id)


def close(engine: Engine, epoch: int, now: datetime, signer: Signer | None = None) -> Epoch | None:
    """Close an epoch and open the next; None if this one is not the open one, and then nothing
    was done. So whoever closes it at the same time, or again, closes it once.

    Its end is signed by the log's key. Without `signer`, or with one whose key is not the log's, a
    later checkpoint holds it.
    """
    with report(engine) as connection:
        page = open_page(connection, now)
        if page.epoch != epoch:
            return None
        closed, head = _close(connection, page)
        if signer is not None:
            sign_end(connection, signer, head, now)
        return closed


def preview(engine: Engine, now: datetime, *, limit: int) -> Preview:
    """What closing the open epoch would do, with so many of its moves: it is done and undone.

    Settlements wait meanwhile, as they do for a close.
    """
    with report(engine) as connection:
        closed, _ = _close(connection, open_page(connection, now))
        values = {"epoch": closed.epoch, "limit": limit}
        rows = dicts(query(connection, "epoch_moves", values))
        connection.rollback()
    if closed.totals is None:
        raise InvariantBroken(f"epoch {closed.epoch} would be closed without totals")
    moved = rows[0]["moved"] if rows else 0
    moves = [Move(**{key: row[key] for key in Move.__slots__}) for row in rows]
    return Preview(epoch=closed.epoch, totals=closed.totals, moved=moved, moves=moves)


def epochs(engine: Engine, *, limit: int, before: int = 0) -> list[Epoch]:
    """The newest epochs, or those before one, newest first."""
    with single(engine) as connection:
        rows = dicts(query(connection, "epoch_list", {"before": before, "limit": limit}))
    return [_epoch(row) for row in rows]


def epoch(engine: Engine, number: int) -> Epoch:
    """One epoch. Raises NotFound."""
    with single(engine) as connection:
        rows = dicts(query(connection, "epoch", {"epoch": number}))
    if not rows:
        raise NotFound("epoch", f"there is no epoch {number}", "see `clearlane epochs list`")
    return _epoch(rows[0])


def _epoch(row: Mapping[str, Any]) -> Epoch:
    totals, hashed = row["totals"], row["balances_sha256"]
    values = {
        "totals": None if totals is None else Totals(**totals),
        "balances_sha256": None if hashed is None else bytes(hashed).hex(),
    }
    return Epoch(**{**row, **values})


class _Sheets:
    """The close's leaves and transactions, written page by page: memory does not grow with the
    number of accounts."""

    def __init__(self, connection: Connection, page: Page) -> None:
        self._connection = connection
        self._leaves = 0
        self.page = page

    def add(self, kind: str, leaf: bytes, postings: Sequence[Posting]) -> None:
        """A transaction and its leaf."""
        append(
            self._connection, self.page, kind=kind, leaves=[leaf], tasks=[None], postings=[postings]
        )
        self._leaves += 1
        if self._leaves == LEAVES:
            self.turn()

    def turn(self) -> Head:
        """Write the page and begin the next; where the log stands then."""
        head = self.page.write(self._connection)
        self.page, self._leaves = Page(head, self.page.now), 0
        return head


def _close(connection: Connection, page: Page) -> tuple[Epoch, Head]:
    sheets, rule = _Sheets(connection, page), clearing_of(params_of(connection))
    begun = one(query(connection, "epoch_open"))
    demurrage_ub, charge_ub = _clear(connection, sheets, rule)
    top_up_ub = _top_up(connection, sheets, rule, begun.transaction)
    sums = one(query(connection, "epoch_sums", {"transaction": begun.transaction}))
    accounts, balances_sha256 = _balances(connection)
    totals = Totals(
        accounts=accounts,
        demurrage_ub=demurrage_ub,
        charge_ub=charge_ub,
        top_up_ub=top_up_ub,
        burned_ub=sums.burned_ub - begun.burned_ub,
        minted_ub=sums.minted_ub - begun.minted_ub,
        settled=sums.settled,
    )
    leaf = entries.epoch_close(
        epoch=page.epoch, at=page.at, balances_sha256=balances_sha256, **asdict(totals)
    )
    sheets.page.add(leaf)
    head = sheets.turn()
    values = {"epoch": page.epoch, "now": page.now, "size": head.size}
    query(
        connection,
        "epoch_end",
        values
        | {"totals": json.dumps(asdict(totals)), "balances_sha256": bytes.fromhex(balances_sha256)},
    )
    at_end = {"minted_ub": sums.minted_ub, "burned_ub": sums.burned_ub}
    query(connection, "epoch_next", values | at_end | {"transaction": head.transaction})
    return _epoch(dicts(query(connection, "epoch", {"epoch": page.epoch}))[0]), head


def _clear(connection: Connection, sheets: _Sheets, rule: Clearing) -> tuple[int, int]:
    """Take demurrage and charges; how much of each."""
    page, demurrage_ub, charge_ub = sheets.page, 0, 0
    members = map(Member._make, scan(connection, "epoch_members"))
    for part, group in enumerate(groups(members, rule, millis(page.at))):
        sheets.add("clear", _clear_leaf(page, part, group), group.postings)
        demurrage_ub += group.demurrage_ub
        charge_ub += group.charge_ub
    return demurrage_ub, charge_ub


def _clear_leaf(page: Page, part: int, group: Group) -> bytes:
    return entries.clear(epoch=page.epoch, at=page.at, part=part, postings=group.postings)


def _top_up(connection: Connection, sheets: _Sheets, rule: Clearing, transaction: int) -> int:
    """Give to the clients whose budget blocked them; how much in all."""
    if not rule.top_up_ub:
        return 0
    values = {"top_up_ub": rule.top_up_ub, "transaction": transaction}
    blocked = [row.account for row in query(connection, "epoch_blocked", values)]
    commons_ub = one(query(connection, "account", {"id": COMMONS})).balance_ub
    page, total_ub = sheets.page, 0
    for postings in top_ups(blocked, commons_ub, rule):
        leaf = entries.top_up(epoch=page.epoch, at=page.at, postings=postings)
        sheets.add("top_up", leaf, postings)
        total_ub += sum(posting.amount_ub for posting in postings if posting.amount_ub > 0)
    return total_ub


def _balances(connection: Connection) -> tuple[int, str]:
    """How many accounts there are, and the hash of what they hold."""
    found, count = BalancesHash(), 0

    def counted() -> Iterator[tuple[str, int]]:
        nonlocal count
        for account, balance_ub in scan(connection, "epoch_balances"):
            count += 1
            yield account, balance_ub

    found.update(counted())
    return count, found.hexdigest()
