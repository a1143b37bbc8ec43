"""`/v1/epochs`: when accounts were cleared, and what that moved. Row M07."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response

from ledger import epochs
from ledger.errors import NotFound
from workers.gateway.pages import LINKED, Limit, link
from workers.gateway.parameters import Known
from workers.gateway.problems import documented
from workers.gateway.schemas import Epoch, Totals
from workers.gateway.service import Here

NUMBER_MAX = 2**63 - 1

router = APIRouter(prefix="/v1/epochs", tags=["epochs"], dependencies=[Known])


@router.get("", summary="List epochs", responses={**LINKED, **documented()})
async def list_epochs(
    here: Here,
    request: Request,
    response: Response,
    after: Annotated[
        int | None,
        Query(
            ge=1,
            le=NUMBER_MAX,
            description="Only what is older than this one: the last of the page before.",
        ),
    ] = None,
    limit: Limit = 100,
) -> list[Epoch]:
    """Epochs, the newest first: the one that is open, then those that were closed."""
    rows = await here.ledger(epochs.epochs, here.engine, limit=limit, before=after or 0)
    link(request, response, [str(row.epoch) for row in rows], limit)
    return [_epoch(row) for row in rows]


@router.get("/{epoch}", summary="One epoch", responses=documented(404))
async def show_epoch(
    here: Here,
    epoch: Annotated[int, Path(ge=1, le=NUMBER_MAX, description="Its number.")],
) -> Epoch:
    """Its leaves in the log, what it moved, and the hash of all balances at its end."""
    try:
        return _epoch(await here.ledger(epochs.epoch, here.engine, epoch))
    except NotFound as error:
        raise NotFound("epoch", error.reason, "see /v1/epochs") from None


def _epoch(row: epochs.Epoch) -> Epoch:
    totals = None if row.totals is None else Totals(**asdict(row.totals))
    return Epoch(**asdict(row) | {"totals": totals})
