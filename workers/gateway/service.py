"""What the endpoints work with: the context, who waits, and threads for calls that block."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, ParamSpec, TypeVar

from anyio import CapacityLimiter
from fastapi import Depends, Request
from sqlalchemy import Engine

from ledger import checkpoints, tokens
from ledger.registry import load_registry
from ledger.tokens import Token
from tasks.context import Context
from workers.gateway.bulk import Bulk
from workers.gateway.callers import Callers
from workers.gateway.calls import Calls
from workers.gateway.rates import Rates
from workers.gateway.readiness import Readiness
from workers.gateway.remembered import Remembered
from workers.gateway.waiting import Endings
from workers.gateway.waits import Waits
from workers.settings import Settings

P = ParamSpec("P")
T = TypeVar("T")

LEDGER_CALLS_MAX = 8  # as many as the engine has connections: nobody waits for one in a thread
FLEET_CALLS_MAX = 8
PROBES_MAX = 2
DECODED_MAX = 1  # bodies at a time: more threads would only keep the event loop from its turn
LEDGER_S = 10.0  # a stalled PostgreSQL costs a request this long; a large list takes its time
FLEET_S = 5.0  # and a stalled Redis this long
PROBE_S = 3.0  # and a probe this long


class Service:
    """One per application.

    Calls to PostgreSQL and to Redis have threads of their own: while one server is stalled, what
    needs only the other goes on.
    """

    def __init__(self, context: Context, settings: Settings) -> None:
        self.context = context
        self.engine: Engine = context.engine
        self.endings = Endings(context.engine.url.render_as_string(hide_password=False))
        self.waits = Waits(
            total_max=settings.gateway_waits_max, token_max=settings.gateway_waits_per_token_max
        )
        rates = Rates(
            requests_per_s=settings.gateway_requests_per_s,
            refusals_per_min=settings.gateway_refusals_per_min,
        )
        self.callers = Callers(self._token, rates, context.now)
        self.decoding = CapacityLimiter(DECODED_MAX)
        self.bulk = Bulk()
        self.checkpoint = Remembered(partial(self.ledger, checkpoints.newest, self.engine))
        self._ledger = Calls("postgresql", threads=LEDGER_CALLS_MAX, seconds=LEDGER_S)
        self._fleet = Calls("redis", threads=FLEET_CALLS_MAX, seconds=FLEET_S)
        self._probes = {
            name: Calls(name, threads=PROBES_MAX, seconds=PROBE_S)
            for name in ("postgresql", "redis")
        }
        self.readiness = Readiness(
            {
                "postgresql": partial(
                    self._probe, "postgresql", partial(load_registry, self.engine)
                ),
                "redis": partial(self._probe, "redis", context.reservations.check_writes),
            }
        )

    async def ledger(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a call that blocks on PostgreSQL. Raises Unavailable after `LEDGER_S`.

        Then it may still be carried out, as after any lost answer: the same request again, with
        the same keys, finds what it did.
        """
        return await self._ledger.run(partial(call, *args, **kwargs))

    async def fleet(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a call that only reads, from Redis. Raises Unavailable after `FLEET_S`."""
        return await self._fleet.run(partial(call, *args, **kwargs))

    async def _token(self, token_id: str) -> Token | None:
        return await self.ledger(tokens.find, self.engine, token_id)

    async def _probe(self, what: str, call: Callable[[], object]) -> None:
        await self._probes[what].run(call)


def _service(request: Request) -> Service:
    found: Service = request.app.state.service
    return found


Here = Annotated[Service, Depends(_service)]
"""An endpoint's parameter of this type is the application's service."""
