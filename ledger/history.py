"""What an account held at a point of the log, or at an instant. Row M05."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, Engine

from ledger.db import one, query, single
from ledger.errors import NotFound
from ledger.leaves import no_leaf


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """A balance right after leaf `index`, which was written `at` that time in that epoch."""

    account: str
    index: int
    at: datetime
    epoch: int
    balance_ub: int


def held(engine: Engine, account: str, at: int | datetime) -> Held:
    """What an account held after a leaf, or after the last leaf of an instant.

    Before its own `open` leaf an account held nothing, or what it had before there was a log.
    Raises NotFound for an unknown account, and for what the log does not reach.
    """
    with single(engine) as connection:
        index = at if isinstance(at, int) else _index(connection, at)
        size = one(query(connection, "log_size")).size
        if not 0 <= index < size:
            raise no_leaf(index, size)
        values = {"account": account, "index": index}
        row = query(connection, "history", values).fetchone()
    if row is None:
        raise NotFound("account", f"{account!r} is not known", "see `clearlane ledger balances`")
    return Held(
        account=row.account, index=index, at=row.at, epoch=row.epoch, balance_ub=row.balance_ub
    )


def _index(connection: Connection, when: datetime) -> int:
    row = query(connection, "log_index", {"when": when}).fetchone()
    if row is None:
        raise NotFound("at", "the log begins later than that", "name a later time")
    return int(row.index)
