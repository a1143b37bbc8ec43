"""`python -m workers.gateway --port N`: serve until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from types import FrameType

import structlog
import uvicorn

from ledger.errors import BadInput, Unavailable
from workers.bootstrap import build_context
from workers.gateway.app import create_app
from workers.gateway.hosts import allowed
from workers.gateway.protocol import Protocol
from workers.logs import configure_logs
from workers.settings import load_settings

CONNECTIONS_MAX = 4000  # beyond them 503, so that there is room to answer at all
STOP_S = 10  # for requests that are under way
WRONG_USAGE = 2
REFUSED = 5

log = structlog.get_logger()


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


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit 0 after a stop, 2 for wrong usage or settings, 5 when the port is taken."""
    parser = argparse.ArgumentParser(prog="python -m workers.gateway", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0 (default): any free one")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    options = parser.parse_args(arguments)
    if not 0 <= options.port <= 65535:  # noqa: PLR2004 the ports there are
        parser.error(f"--port: {options.port} is not a port; use 0 to 65535")
    try:
        settings = load_settings()
        configure_logs(settings)
        context = build_context(settings)
        bound = listen(options.host, options.port)
    except BadInput as error:
        log.error("cannot start", reason=str(error))
        return WRONG_USAGE
    except Unavailable as error:
        log.error("cannot start", reason=str(error))
        return REFUSED
    # Its own messages tell less than ours.
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    app = create_app(context, settings, allowed(options.host, settings.gateway_hosts))
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        # Whoever is on this machine could otherwise name any address as its own.
        proxy_headers=False,
        http=Protocol,
        ws="none",
        limit_concurrency=CONNECTIONS_MAX,
        timeout_graceful_shutdown=STOP_S,
    )
    log.info("gateway listening", url=_url(bound))
    Server(config, app.state.service.endings.release).run(sockets=[bound])
    context.engine.dispose()
    log.info("gateway stopped")
    return 0


def _url(bound: socket.socket) -> str:
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


if __name__ == "__main__":
    sys.exit(main())
