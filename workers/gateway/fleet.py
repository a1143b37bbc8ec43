"""`/v1/agents` and `/v1/prices`: who could do the work, how they stand, what they ask."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any
from urllib.parse import urlsplit, urlunsplit

from fastapi import APIRouter, Path, Query

from ledger import model
from ledger.db import instant
from ledger.errors import NotFound
from ledger.intake import SIZE_MAX
from ledger.registry import Registry
from scheduler.pool import MT
from scheduler.reservations import Standing
from scheduler.router import Seat
from workers.gateway.parameters import Known
from workers.gateway.problems import documented
from workers.gateway.schemas import NAME, Agent, Price
from workers.gateway.service import Here
from workers.prices import price_list

router = APIRouter(prefix="/v1", tags=["fleet"], dependencies=[Known])


@router.get("/agents", summary="List agents", responses=documented(503))
async def list_agents(here: Here) -> list[Agent]:
    """Every agent as registered, by name, and how it stands now."""
    registry = await here.ledger(here.context.registry)
    board, _ = await here.fleet(here.context.reservations.look, list(registry.agents))
    now_ms = here.context.now_ms()
    return [
        _agent(agent, registry, board.get(name), now_ms) for name, agent in registry.agents.items()
    ]


@router.get("/agents/{agent}", summary="One agent", responses=documented(404, 503))
async def show_agent(
    here: Here, agent: Annotated[str, Path(description="An agent's id.")]
) -> Agent:
    """An agent as registered, and how it stands now."""
    registry = await here.ledger(here.context.registry)
    found = registry.agents.get(agent)
    if found is None:
        raise NotFound("agent", f"{agent!r} is not known", "see /v1/agents")
    board, _ = await here.fleet(here.context.reservations.look, [agent])
    return _agent(found, registry, board.get(agent), here.context.now_ms())


@router.get("/prices", summary="What every agent asks now", responses=documented(404, 503))
async def list_prices(
    here: Here,
    size: Annotated[
        int | None,
        Query(ge=1, le=SIZE_MAX, description="Tokens; the family's size if absent, or 100."),
    ] = None,
    family: Annotated[
        str | None, Query(pattern=NAME, description="Hold agents against its constraints.")
    ] = None,
) -> list[Price]:
    """The price list for a task of this size. It moves with every task that is placed."""
    rows = await here.fleet(price_list, here.context, size, family)
    return [Price(**_price(asdict(row))) for row in rows]


def _price(row: dict[str, Any]) -> dict[str, Any]:
    price_ub = row["price_ub"]
    return row | {"price_ub": None if price_ub is None else f"{price_ub:.3f}"}


def _agent(agent: model.Agent, registry: Registry, standing: Standing | None, now_ms: int) -> Agent:
    same = ("kind", "model", "y_max", "k", "refill_per_s", "slots", "cooldown_s", "quota_ub",
            "lane", "owner", "region", "suspended")  # fmt: skip
    return Agent(
        agent=agent.id,
        url=_public(agent.url),
        tools=sorted(agent.tools),
        domains=sorted(agent.domains),
        headers=sorted(agent.headers),
        **{name: getattr(agent, name) for name in same},
        **_standing(agent, registry, standing, now_ms),
    )


def _standing(
    agent: model.Agent, registry: Registry, standing: Standing | None, now_ms: int
) -> dict[str, Any]:
    if standing is None:
        return dict.fromkeys(("y", "in_flight", "f", "s", "samples", "rests_until"))
    pool, judgement = standing
    seat = Seat.open(agent, pool, judgement, registry.routing, now_ms)
    rests = pool.next_available_ms > now_ms
    return {
        "y": seat.y_mt / MT,
        "in_flight": pool.in_flight,
        "f": seat.f,
        "s": seat.s,
        "samples": judgement.samples,
        "rests_until": instant(pool.next_available_ms) if rests else None,
    }


def _public(url: str) -> str:
    """Without what may be secret: user, password, query."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
