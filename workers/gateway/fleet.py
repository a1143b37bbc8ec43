"""`/v1/agents` and `/v1/prices`: who could do the work, how they stand, what they ask."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any
from urllib.parse import urlsplit, urlunsplit

from fastapi import APIRouter, Path, Query, Request, Response

from ledger import model
from ledger.db import instant
from ledger.errors import NotFound
from ledger.intake import SIZE_MAX
from ledger.registry import Registry
from ledger.tokens import Role
from scheduler.pool import MT
from scheduler.router import Seat
from scheduler.standing import Standing
from workers.gateway.access import Caller, check_own
from workers.gateway.pages import LINKED, After, Limit, link, page
from workers.gateway.parameters import Known
from workers.gateway.problems import documented
from workers.gateway.schemas import Agent, Price
from workers.gateway.service import Here
from workers.prices import PriceRow, price_list
from workers.terms import NAME

router = APIRouter(prefix="/v1", tags=["fleet"], dependencies=[Known])


@router.get("/agents", summary="List agents", responses={**LINKED, **documented()})
async def list_agents(
    here: Here, request: Request, response: Response, after: After = None, limit: Limit = 100
) -> list[Agent]:
    """Agents as registered, by name, and how they stand now."""
    registry = await here.ledger(here.context.registry)
    names = page(sorted(registry.agents), str, after, limit)
    board, _ = await here.fleet(here.context.reservations.look, names)
    now_ms = here.context.now_ms()
    link(request, response, names, limit)
    return [_agent(registry.agents[name], registry, board.get(name), now_ms) for name in names]


@router.get("/agents/{agent}", summary="One agent", responses=documented(404))
async def show_agent(
    here: Here, caller: Caller, agent: Annotated[str, Path(description="An agent's id.")]
) -> Agent:
    """An agent as registered, and how it stands now."""
    remedy = "see /v1/agents" if caller.tenant is None else f"ask for {caller.tenant}"
    unknown = NotFound("agent", f"{agent!r} is not known", remedy)
    check_own(caller, Role.AGENT, agent, unknown)
    registry = await here.ledger(here.context.registry)
    found = registry.agents.get(agent)
    if found is None:
        raise unknown
    board, _ = await here.fleet(here.context.reservations.look, [agent])
    return _agent(found, registry, board.get(agent), here.context.now_ms())


@router.get("/prices", summary="What every agent asks now", responses={**LINKED, **documented(404)})
async def list_prices(
    here: Here,
    request: Request,
    response: Response,
    *,
    size: Annotated[
        int | None,
        Query(ge=1, le=SIZE_MAX, description="Tokens; the family's size if absent, or 100."),
    ] = None,
    family: Annotated[
        str | None, Query(pattern=NAME, description="Hold agents against its constraints.")
    ] = None,
    after: After = None,
    limit: Limit = 100,
) -> list[Price]:
    """The price list for a task of this size, by agent. It moves with every task placed."""
    rows = await here.fleet(price_list, here.context, size, family)
    found = page(sorted(rows, key=_seller), _seller, after, limit)
    link(request, response, [_seller(row) for row in found], limit)
    return [Price(**_price(asdict(row))) for row in found]


def _seller(row: PriceRow) -> str:
    return row.agent


def _price(row: dict[str, Any]) -> dict[str, Any]:
    price_ub = row["price_ub"]
    return row | {"price_ub": None if price_ub is None else round(price_ub)}


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
