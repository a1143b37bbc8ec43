"""Whom a request may address: on loopback nobody but loopback.

A page on the web can make a browser resolve the page's own name to 127.0.0.1 and then talk to
whatever listens there; the name in `Host` gives it away.
"""

from __future__ import annotations

from collections.abc import Set
from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from workers.gateway.problems import Refused, refusal

LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "[::1]"})


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
                refused = Refused(421, "Host", "it is not this machine", "ask for 127.0.0.1")
                await refusal(refused)(scope, receive, send)
                return
        await self._app(scope, receive, send)
