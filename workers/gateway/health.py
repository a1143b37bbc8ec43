"""`/livez` and `/readyz`: does the process answer, and can it do its work? Row M30."""

from __future__ import annotations

from fastapi import APIRouter, Response

from workers.gateway.parameters import Known
from workers.gateway.problems import documented, problem
from workers.gateway.readiness import OK
from workers.gateway.schemas import Alive, Ready
from workers.gateway.service import Here

router = APIRouter(tags=["health"], dependencies=[Known])


@router.get("/livez", summary="Is the process alive?", responses=documented())
async def livez() -> Alive:
    """Says nothing about the servers behind it: restarting us would not help them."""
    return Alive(alive=True)


@router.get(
    "/readyz",
    summary="Can it do its work?",
    response_model=Ready,
    responses=documented(503),
)
async def readyz(here: Here) -> Ready | Response:
    """Asks PostgreSQL and Redis what a request would ask them, at most once a second."""
    checks = await here.readiness.checks()
    wrong = [f"{name}: {reason}" for name, reason in checks.items() if reason != OK]
    if wrong:
        return problem(503, "; ".join(wrong), members={"checks": checks})
    return Ready(ready=True, checks=checks)
