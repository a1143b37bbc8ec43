"""The application: routers, errors, limits and the OpenAPI document put together."""

from __future__ import annotations

from collections.abc import AsyncIterator, Set
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import Depends, FastAPI
from starlette.types import ASGIApp

from tasks.context import Context
from workers.gateway import accounts, epochs, fleet, health, lanes, log, metrics, problems, tasks
from workers.gateway.access import OPEN_PATHS, authorize, check_rules
from workers.gateway.body import BodyLimit
from workers.gateway.front import Front
from workers.gateway.gate import Gate
from workers.gateway.hosts import AllowedHosts
from workers.gateway.openapi import complete
from workers.gateway.service import Service
from workers.settings import Settings

ABOUT = """\
Submit work, follow it, see who asks what price and who owns what.

Every request but those for health and this document carries a token: `Authorization: Bearer …`.
A client's token acts for one client, an agent's for one agent; what belongs to others does not
exist for them.

Amounts are decimal strings of µB (1 B = 1,000,000 µB) in fields that end in `_ub`; times are
RFC 3339 in UTC. Every error is `application/problem+json` (RFC 9457) and says what was wrong and
what to do. After a 503, or no answer, repeat the request: with the same idempotency key a task is
accepted once.
"""


class Gateway(FastAPI):
    """FastAPI with one more layer around everything, and a complete OpenAPI document."""

    def build_middleware_stack(self) -> ASGIApp:
        """What a request passes, from the outside in."""
        return Front(super().build_middleware_stack())

    def openapi(self) -> dict[str, Any]:
        """The document served at /openapi.json."""
        if self.openapi_schema is None:
            complete(super().openapi())
        return super().openapi()


def create_app(context: Context, settings: Settings, hosts: Set[str]) -> FastAPI:
    """The gateway on this context, for requests to `hosts` (empty: to any).

    It connects when it starts or is asked, not before.
    """
    service = Service(context, settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.endings.start()
        yield
        await service.endings.stop()

    app = Gateway(
        title="Clearlane",
        summary="Dispatches work to a fleet of unreliable agents and accounts for it.",
        description=ABOUT,
        version=version("clearlane"),
        lifespan=lifespan,
        dependencies=[Depends(authorize)],
        docs_url=None,  # both would load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.service = service
    # The last one added is the first one asked.
    app.add_middleware(BodyLimit)
    app.add_middleware(Gate, callers=service.callers, open_paths=OPEN_PATHS)
    app.add_middleware(AllowedHosts, names=hosts)
    problems.install(app)
    for room in (tasks, fleet, lanes, accounts, epochs, log, health, metrics):
        app.include_router(room.router)
    check_rules(app)
    return app
