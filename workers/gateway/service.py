"""What the endpoints work with: the context, who waits, and threads for calls that block."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, ParamSpec, TypeVar

from anyio import CapacityLimiter, fail_after, to_thread
from fastapi import Depends, Request
from sqlalchemy import Engine

from ledger.errors import Unavailable
from tasks.context import Context
from workers.gateway.waiting import Endings

P = ParamSpec("P")
T = TypeVar("T")

LEDGER_CALLS_MAX = 8  # as many as the engine has connections: nobody waits for one in a thread
FLEET_CALLS_MAX = 8
PROBES_MAX = 2
ANSWER_S = 5.0  # a stalled server costs a request this long
PROBE_S = 3.0  # and a probe this long


class Service:
    """One per application.

    Calls to PostgreSQL and to Redis have threads of their own: while one server is stalled, what
    needs only the other goes on.
    """

    def __init__(self, context: Context) -> None:
        self.context = context
        self.engine: Engine = context.engine
        self.endings = Endings(context.engine.url.render_as_string(hide_password=False))
        self._ledger = CapacityLimiter(LEDGER_CALLS_MAX)
        self._fleet = CapacityLimiter(FLEET_CALLS_MAX)
        self._probes = {name: CapacityLimiter(PROBES_MAX) for name in ("postgresql", "redis")}

    async def ledger(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a call that blocks on PostgreSQL. Never abandoned: it may be accepting a task."""
        return await to_thread.run_sync(partial(call, *args, **kwargs), limiter=self._ledger)

    async def fleet(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a call that only reads, from Redis. Raises Unavailable after `ANSWER_S`."""
        bound = partial(call, *args, **kwargs)
        return await _within(ANSWER_S, "redis", bound, self._fleet)

    async def probe(self, what: str, call: Callable[[], object]) -> None:
        """Ask a server something cheap. Raises Unavailable, after `PROBE_S` at the latest."""
        await _within(PROBE_S, what, call, self._probes[what])


async def _within(seconds: float, what: str, call: Callable[[], T], limiter: CapacityLimiter) -> T:
    """The call's result; a thread that is stuck keeps its place until its own time limit."""
    try:
        with fail_after(seconds):
            return await to_thread.run_sync(call, limiter=limiter, abandon_on_cancel=True)
    except TimeoutError:
        raise Unavailable(
            what, f"no answer within {seconds:g} s", "see `clearlane status`"
        ) from None


def _service(request: Request) -> Service:
    found: Service = request.app.state.service
    return found


Here = Annotated[Service, Depends(_service)]
"""An endpoint's parameter of this type is the application's service."""
