"""Accounts: opening, minting, balances and their movements. Rows M05, M06."""

from __future__ import annotations

from typing import Any

from psycopg.errors import CheckViolation, NumericValueOutOfRange
from sqlalchemy import Connection, Engine

from ledger.db import dicts, query, report, single
from ledger.errors import BadInput, Conflict, NotFound
from ledger.log import Page
from ledger.money import show_b
from ledger.postings import ISSUANCE, Posting
from ledger.proof import entries
from ledger.settle import append


def open_account(connection: Connection, page: Page, account: str, quota_ub: int) -> None:
    """Create an account with balance 0; one that exists is left as it is."""
    values = {"id": account, "quota_ub": quota_ub, "now": page.now}
    if query(connection, "open_account", values).fetchone() is not None:
        page.add(
            entries.open_account(epoch=page.epoch, at=page.at, account=account, quota_ub=quota_ub)
        )


def set_quota(connection: Connection, page: Page, account: str, quota_ub: int) -> bool:
    """Change how far an account may go below zero; True if it was another before.

    Raises Conflict when it owes more than that already.
    """
    values = {"id": account, "quota_ub": quota_ub}
    try:
        changed = query(connection, "set_quota", values).fetchone() is not None
    except CheckViolation:
        raise Conflict(
            "quota", f"{account} owes more than {show_b(quota_ub)} B", "settle the debt first"
        ) from None
    if changed:
        page.add(entries.quota(epoch=page.epoch, at=page.at, account=account, quota_ub=quota_ub))
    return changed


def mint(connection: Connection, page: Page, account: str, amount_ub: int) -> None:
    """Create credit. Issuance goes negative by as much, so that all balances still sum to 0.

    Raises BadInput when all that was ever created is more than a balance can hold.
    """
    postings = [
        Posting(account=ISSUANCE, amount_ub=-amount_ub),
        Posting(account=account, amount_ub=amount_ub),
    ]
    leaf = entries.mint(epoch=page.epoch, at=page.at, account=account, postings=postings)
    try:
        append(connection, page, kind="mint", leaves=[leaf], tasks=[None], postings=[postings])
    except NumericValueOutOfRange:
        reason = f"with these {show_b(amount_ub)} B more was created than {ISSUANCE} can count"
        raise BadInput("mint", reason, f"mint less for {account}") from None


def balances(engine: Engine) -> list[dict[str, Any]]:
    """Every account with balance and quota, by name."""
    with report(engine) as connection:
        return dicts(query(connection, "balances"))


def account(engine: Engine, name: str, *, limit: int = 100) -> dict[str, Any]:
    """One account and its newest movements (`postings`). Raises NotFound."""
    with single(engine) as connection:
        found = dicts(query(connection, "account", {"id": name}))
        if not found:
            raise NotFound("account", f"{name!r} is not known", "see `clearlane ledger balances`")
        postings = query(connection, "account_postings", {"id": name, "limit": limit})
        return found[0] | {"postings": dicts(postings)}
