"""Accounts: opening, minting, balances and their movements. Rows M05, M06."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import IntegrityError

from ledger.db import single, sql
from ledger.errors import Conflict, NotFound
from ledger.money import show_b
from ledger.postings import ISSUANCE, Posting
from ledger.settle import append, take_settle_lock


def open_account(connection: Connection, account: str, quota_ub: int, now: datetime) -> None:
    """Create an account with balance 0; one that exists is left as it is."""
    connection.execute(sql("open_account"), {"id": account, "quota_ub": quota_ub, "now": now})


def set_quota(connection: Connection, account: str, quota_ub: int) -> bool:
    """Change how far an account may go below zero; True if it was another before.

    Raises Conflict when it owes more than that already.
    """
    values = {"id": account, "quota_ub": quota_ub}
    try:
        return connection.execute(sql("set_quota"), values).first() is not None
    except IntegrityError:
        raise Conflict(
            "quota", f"{account} owes more than {show_b(quota_ub)} B", "settle the debt first"
        ) from None


def mint(connection: Connection, account: str, amount_ub: int, now: datetime) -> None:
    """Create credit. Issuance goes negative by as much, so that all balances still sum to 0."""
    take_settle_lock(connection)
    append(
        connection,
        kind="mint",
        tasks=[None],
        postings=[
            [
                Posting(account=ISSUANCE, amount_ub=-amount_ub),
                Posting(account=account, amount_ub=amount_ub),
            ]
        ],
        now=now,
    )


def balances(engine: Engine) -> list[dict[str, Any]]:
    """Every account with balance and quota, by name."""
    with single(engine) as connection:
        return [dict(row) for row in connection.execute(sql("balances")).mappings()]


def account(engine: Engine, name: str, *, limit: int = 100) -> dict[str, Any]:
    """One account and its newest movements (`postings`). Raises NotFound."""
    with single(engine) as connection:
        row = connection.execute(sql("account"), {"id": name}).mappings().first()
        if row is None:
            raise NotFound("account", f"{name!r} is not known", "see `clearlane ledger balances`")
        found = connection.execute(sql("account_postings"), {"id": name, "limit": limit})
        return dict(row) | {"postings": [dict(item) for item in found.mappings()]}
