"""How our HTTP servers take their port, and how they stop."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn

from ledger.errors import BadInput, Unavailable


class Server(uvicorn.Server):
    """Uvicorn, except that a stop lets go of whoever waits, and is the orderly end (exit 0)."""

    def __init__(self, config: uvicorn.Config, release: Callable[[], None]) -> None:
        super().__init__(config)
        self._release = release

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Stop accepting, answer what is open; a second SIGINT does not wait for that."""
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True
        asyncio.get_running_loop().call_soon_threadsafe(self._release)


def listen(host: str, port: int) -> socket.socket:
    """A socket bound to the address; port 0 takes any free one. Raises Unavailable, BadInput."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise BadInput("--host", f"{host!r}: {error.strerror}", "use 127.0.0.1") from None
    # With its protocol, or asyncio would not see that it is TCP and leave Nagle's delay on.
    bound = socket.socket(family, kind, protocol)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind(address)
        bound.listen()  # at once: until somebody listens, another process may bind it too
    except OSError as error:
        bound.close()
        raise Unavailable(
            f"port {port} on {host}", str(error.strerror), "stop what uses it, or choose another"
        ) from None
    return bound


def url_of(bound: socket.socket) -> str:
    """Where others find it."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
