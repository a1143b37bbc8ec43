"""The gate: whatever is not open to everybody needs a valid token, also what does not exist."""

from __future__ import annotations

from collections.abc import Set
from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from ledger.errors import ClearlaneError
from workers.gateway.callers import Callers
from workers.gateway.problems import Refused, answer

ONCE: Final = ("host", "authorization", "content-type", "idempotency-key")
"""Headers of which two would be read differently by whoever stands between us and the client."""


class Gate:
    """ASGI middleware: puts the caller's token into the request's state, or answers itself."""

    def __init__(self, app: ASGIApp, callers: Callers, open_paths: Set[str]) -> None:
        self._app = app
        self._callers = callers
        self._open_paths = open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let pass who may ask; what each may see is decided by the route (`access.py`)."""
        if scope["type"] == "http":
            try:
                await self._admit(scope)
            except ClearlaneError as error:
                await answer(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    async def _admit(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        for name in ONCE:
            if len(headers.getlist(name)) > 1:
                raise Refused(400, name.title(), "it is there more than once", "send it once")
        if "transfer-encoding" in headers and "content-length" in headers:
            raise Refused(
                400,
                "Content-Length",
                "it is there beside Transfer-Encoding",
                "send one of them",
                headers={"Connection": "close"},  # where the next request begins is anybody's guess
            )
        if scope["path"] not in self._open_paths:
            client = scope.get("client")
            scope.setdefault("state", {})["caller"] = await self._callers.identify(
                headers.get("authorization"), client[0] if client else ""
            )
