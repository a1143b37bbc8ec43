"""`python -m workers.gateway --port N`: serve until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

import structlog
import uvicorn

from ledger.errors import BadInput, Unavailable
from workers.bootstrap import build_context
from workers.gateway.app import create_app
from workers.gateway.hosts import allowed
from workers.gateway.protocol import Protocol
from workers.listening import Server, listen, url_of
from workers.logs import configure_logs
from workers.settings import load_settings

CONNECTIONS_MAX = 4000  # beyond them 503, so that there is room to answer at all
STOP_S = 10  # for requests that are under way
WRONG_USAGE = 2
REFUSED = 5

log = structlog.get_logger()


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
    log.info("gateway listening", url=url_of(bound))
    Server(config, app.state.service.endings.release).run(sockets=[bound])
    context.engine.dispose()
    log.info("gateway stopped")
    return 0


if __name__ == "__main__":
    sys.exit(main())
