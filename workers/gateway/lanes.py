"""`/v1/lanes`: who may use which shared resource, and who held it before. Row M02."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response

from ledger import lanes
from ledger.errors import NotFound
from workers.gateway import schemas
from workers.gateway.pages import LIMIT_MAX, LINKED, After, Limit, link, page
from workers.gateway.parameters import Known
from workers.gateway.problems import documented
from workers.gateway.schemas import Lane, LaneBook, Tenure
from workers.gateway.service import Here

TOKEN_MAX = 2**63 - 1

router = APIRouter(prefix="/v1", tags=["lanes"], dependencies=[Known])


@router.get("/lanes", summary="List lanes", responses={**LINKED, **documented()})
async def list_lanes(
    here: Here, request: Request, response: Response, after: After = None, limit: Limit = 100
) -> list[Lane]:
    """Every lane by name, and who holds it now."""
    rows = await here.ledger(lanes.lanes, here.engine, here.context.now())
    found = page(rows, _name, after, limit)
    link(request, response, [_name(row) for row in found], limit)
    return [_lane(row) for row in found]


@router.get("/lanes/{lane}", summary="One lane and its history", responses=documented(404))
async def show_lane(
    here: Here,
    lane: Annotated[str, Path(description="A lane's name.")],
    before: Annotated[
        int | None,
        Query(ge=1, le=TOKEN_MAX, description="Of its history only what is older than this token."),
    ] = None,
    limit: Annotated[int, Query(ge=1, le=LIMIT_MAX, description="So many tenures at most.")] = 100,
) -> LaneBook:
    """Who holds a lane now, and who held it before, the newest first."""
    try:
        found = await here.ledger(lanes.lane, here.engine, lane, here.context.now())
    except NotFound as error:
        raise NotFound("lane", error.reason, "see /v1/lanes") from None
    rows = await here.ledger(lanes.history, here.engine, lane, limit=limit, before=before)
    history = [Tenure(**_tenure(row)) for row in rows]
    return LaneBook(**_lane(found).model_dump(), history=history)


def _name(row: lanes.Lane) -> str:
    return row.lane


def _lane(row: lanes.Lane) -> Lane:
    same = ("lane", "mode", "principal", "reason", "since", "until", "token", "drained",
            "in_flight")  # fmt: skip
    return schemas.Lane(**{name: getattr(row, name) for name in same}, batch=row.serves or None)


def _tenure(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **{
            name: row[name]
            for name in ("token", "mode", "principal", "reason", "asked_at", "ended")
        },
        "began_at": row["granted_at"],
        "ended_at": row["ended_at"],
    }
