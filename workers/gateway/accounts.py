"""`/v1/accounts`: balances and movements. Row M05."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query

from ledger import accounts
from workers.gateway.parameters import Known
from workers.gateway.problems import documented
from workers.gateway.schemas import ACCOUNT, Account, AccountBook, Posting
from workers.gateway.service import Here

router = APIRouter(prefix="/v1/accounts", tags=["accounts"], dependencies=[Known])


@router.get("", summary="List balances", responses=documented(503))
async def list_accounts(here: Here) -> list[Account]:
    """Every account by name. The balances sum to zero."""
    rows = await here.ledger(accounts.balances, here.engine)
    return [Account(**row) for row in rows]


@router.get("/{account}", summary="One account", responses=documented(404, 503))
async def show_account(
    here: Here,
    account: Annotated[str, Path(pattern=ACCOUNT, description="client:…, agent:… or system:….")],
    limit: Annotated[int, Query(ge=1, le=1000, description="So many movements at most.")] = 100,
) -> AccountBook:
    """Balance, quota and the newest movements."""
    row = await here.ledger(accounts.account, here.engine, account, limit=limit)
    postings = [
        Posting(**item | {"task": None if item["task"] is None else str(item["task"])})
        for item in row["postings"]
    ]
    return AccountBook(**row | {"postings": postings})
