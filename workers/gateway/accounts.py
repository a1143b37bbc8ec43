"""`/v1/accounts`: balances and movements. Row M05."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response

from ledger import accounts
from ledger.errors import NotFound
from workers.gateway.access import Caller, check_own
from workers.gateway.pages import LIMIT_MAX, LINKED, After, Limit, link, page
from workers.gateway.parameters import Known
from workers.gateway.problems import documented
from workers.gateway.schemas import ACCOUNT, Account, AccountBook, Posting
from workers.gateway.service import Here

router = APIRouter(prefix="/v1/accounts", tags=["accounts"], dependencies=[Known])


@router.get("", summary="List balances", responses={**LINKED, **documented()})
async def list_accounts(
    here: Here, request: Request, response: Response, after: After = None, limit: Limit = 100
) -> list[Account]:
    """Every account by name. The balances of all pages sum to zero."""
    rows = await here.ledger(accounts.balances, here.engine)
    found = page(sorted(rows, key=_name), _name, after, limit)
    link(request, response, [_name(row) for row in found], limit)
    return [Account(**row) for row in found]


@router.get("/{account}", summary="One account", responses=documented(404))
async def show_account(
    here: Here,
    caller: Caller,
    account: Annotated[str, Path(pattern=ACCOUNT, description="client:…, agent:… or system:….")],
    limit: Annotated[
        int, Query(ge=1, le=LIMIT_MAX, description="So many movements at most.")
    ] = 100,
) -> AccountBook:
    """Balance, quota and the newest movements."""
    own = f"{caller.role}:{caller.tenant}"
    remedy = "see /v1/accounts" if caller.tenant is None else f"ask for {own}"
    unknown = NotFound("account", f"{account!r} is not known", remedy)
    kind, _, name = account.partition(":")
    check_own(caller, kind, name, unknown)
    try:
        row = await here.ledger(accounts.account, here.engine, account, limit=limit)
    except NotFound:
        raise unknown from None
    postings = [
        Posting(**item | {"task": None if item["task"] is None else str(item["task"])})
        for item in row["postings"]
    ]
    return AccountBook(**row | {"postings": postings})


def _name(row: Mapping[str, Any]) -> str:
    return str(row["account"])
