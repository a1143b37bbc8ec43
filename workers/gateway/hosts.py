"""Whom a request may address: on loopback nobody but loopback, and names an operator has given.

A page on the web can make a browser resolve the page's own name to 127.0.0.1 and then talk to
whatever listens there; the name in `Host` gives it away.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from workers.gateway.problems import Refused, answer

LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "[::1]"})


def allowed(listening: str, given: Iterable[str]) -> frozenset[str]:
    """The names to answer to when listening on an address; none stands for every name."""
    names = frozenset(name.lower() for name in given)
    local = listening in LOOPBACK or f"[{listening}]" in LOOPBACK
    return names | LOOPBACK if names or local else names


class AllowedHosts:
    """ASGI middleware: refuses a request for another host with 421. No names: every host."""

    def __init__(self, app: ASGIApp, names: Set[str]) -> None:
        self._app = app
        self._names = names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Look at `Host`, without its port."""
        if scope["type"] == "http" and self._names:
            host = Headers(scope=scope).get("host", "")
            name = host[: host.find("]") + 1] if host.startswith("[") else host.partition(":")[0]
            if name.lower() not in self._names:
                refused = Refused(
                    421,
                    "Host",
                    "it is not a name of this gateway",
                    "ask for 127.0.0.1, or have the name added to CLEARLANE_GATEWAY_HOSTS",
                )
                await answer(refused)(scope, receive, send)
                return
        await self._app(scope, receive, send)
