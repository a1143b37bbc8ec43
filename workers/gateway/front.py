"""What every request and answer have in common: one form of the target, HEAD as GET without the
body, security headers, a time limit, and one line in the log. Rows M40, M41.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import unquote

import structlog
from fastapi import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ledger.errors import Unavailable
from tasks.text import printable
from workers.gateway.problems import answer

REQUEST_S: Final = 150.0  # beyond every limit of its parts; only a client that does not read it
TASKS_SHOWN_MAX: Final = 10  # ids in one line of the log; how many there are is told as well
ABSOLUTE: Final = re.compile(rb"https?://(?P<host>[^/]+)(?P<path>/.*)?", re.IGNORECASE)
PROBED: Final = frozenset({"/livez", "/readyz"})  # asked every second: only their failures are told

CACHING: Final = (b"cache-control", b"no-store")  # unless the answer says how
SECURITY: Final = (
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)

log = structlog.get_logger()


class Front:
    """The outermost layer, around errors of ours too."""

    def __init__(self, app: ASGIApp, seconds: float = REQUEST_S) -> None:
        self._app = app
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; anything else passes as it is."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, send)
        try:
            async with asyncio.timeout(self._seconds):
                await self._app(exchange.scope, receive, exchange.send)
        except TimeoutError:
            if exchange.status is None:
                late = Unavailable("gateway", f"not done within {self._seconds:g} s", "try again")
                await answer(late)(exchange.scope, receive, exchange.send)
        finally:
            exchange.tell()


class _Exchange:
    """One request and what was answered."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self.status: int | None = None
        self._method = scope["method"]
        self._send = send
        self._started = time.perf_counter()
        # A copy: the server looks at its own to see that a HEAD gets no body.
        self.scope = dict(scope)
        self.scope["state"] = dict(scope.get("state", {}))
        self.scope |= _origin_form(scope)
        if self._method == "HEAD":
            self.scope["method"] = "GET"

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = [*message.get("headers", ()), *SECURITY]
            if all(name != CACHING[0] for name, _ in headers):
                headers.append(CACHING)
            message = {**message, "headers": headers}
        elif self._method == "HEAD":
            message = {**message, "body": b""}
        await self._send(message)

    def tell(self) -> None:
        """One line: who asked for what, and what came of it. Neither token nor query nor body."""
        path = self.scope["path"]
        status = self.status or 500
        if path in PROBED and status < 400:  # noqa: PLR2004
            return
        state = self.scope["state"]
        caller = state.get("caller")
        route = getattr(self.scope.get("route"), "path", None)
        client = self.scope.get("client")
        tasks: Sequence[str] = state.get("tasks", ())
        found: dict[str, Any] = {
            "principal": None if caller is None else caller.principal,
            "token": None if caller is None else caller.id,
            "address": client[0] if client else None,
            "method": self._method,
            "route": route or printable(path),
            "status": status,
            "duration_s": round(time.perf_counter() - self._started, 4),
        }
        if tasks:
            found |= {"tasks": list(tasks[:TASKS_SHOWN_MAX]), "tasks_count": len(tasks)}
        log.info("request", **found)


def _origin_form(scope: Scope) -> dict[str, Any]:
    """What `GET http://host/path` changes: it is `GET /path` for that host (RFC 9112, 3.2.2)."""
    found = ABSOLUTE.fullmatch(scope.get("raw_path") or b"")
    if found is None:
        return {}
    path = found["path"] or b"/"
    others = [(name, value) for name, value in scope["headers"] if name != b"host"]
    return {
        "raw_path": path,
        "path": unquote(path.decode("ascii")),
        "headers": [(b"host", found["host"]), *others],
    }


def note_tasks(request: Request, tasks: Sequence[str]) -> None:
    """The tasks that this request is about, for the log."""
    request.state.tasks = tasks
