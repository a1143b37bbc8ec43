"""The application: routers, errors, limits and the OpenAPI document put together."""

from __future__ import annotations

from collections.abc import AsyncIterator, Set
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI

from tasks.context import Context
from workers.gateway import accounts, fleet, health, problems, tasks
from workers.gateway.body import BodyLimit
from workers.gateway.hosts import AllowedHosts
from workers.gateway.problems import Problem
from workers.gateway.schemas import TaskIn
from workers.gateway.service import Service

ABOUT = """\
Submit work, follow it, see who asks what price and who owns what.

Amounts are decimal strings of µB (1 B = 1,000,000 µB) in fields that end in `_ub`; times are
RFC 3339 in UTC. Every error is `application/problem+json` (RFC 9457) and says what was wrong and
what to do. After a 503, or no answer, repeat the request: with the same idempotency key a task is
accepted once.
"""


class Gateway(FastAPI):
    """FastAPI, with the schemas that it does not find by itself in its OpenAPI document."""

    def openapi(self) -> dict[str, Any]:
        """The document served at /openapi.json."""
        document = super().openapi()
        place = "#/components/schemas/{model}"
        document["components"]["schemas"] |= {
            model.__name__: model.model_json_schema(ref_template=place)
            for model in (Problem, TaskIn)
        }
        return document


def create_app(context: Context, hosts: Set[str]) -> FastAPI:
    """The gateway on this context, for requests to `hosts` (empty: to any).

    It connects when it starts or is asked, not before.
    """
    service = Service(context)

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
        docs_url=None,  # both would load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.service = service
    app.add_middleware(BodyLimit)
    app.add_middleware(AllowedHosts, names=hosts)
    problems.install(app)
    for room in (tasks, fleet, accounts, health):
        app.include_router(room.router)
    return app
