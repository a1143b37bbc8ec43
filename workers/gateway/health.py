"""`/livez` and `/readyz`: does the process answer, and can it do its work? Row M30."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import anyio
from fastapi import APIRouter, Response

from ledger.errors import ClearlaneError
from ledger.registry import load_registry
from workers.gateway.problems import documented, problem
from workers.gateway.schemas import Alive, Ready
from workers.gateway.service import Here

OK = "ok"

router = APIRouter(tags=["health"])


@router.get("/livez", summary="Is the process alive?")
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
    """Asks PostgreSQL and Redis what a request would ask them."""
    checks: dict[str, str] = {}

    async def check(name: str, question: Callable[[], object]) -> None:
        try:
            await here.probe(name, question)
        except ClearlaneError as error:
            checks[name] = str(error)
        else:
            checks[name] = OK

    async with anyio.create_task_group() as group:
        group.start_soon(check, "postgresql", partial(load_registry, here.engine))
        group.start_soon(check, "redis", here.context.reservations.count_in_flight)
    wrong = [reason for reason in checks.values() if reason != OK]
    if wrong:
        return problem(503, "; ".join(wrong), members={"checks": checks})
    return Ready(ready=True, checks=checks)
