"""The way to the broker: kombu's Redis transport, made cheaper and harder to kill (row M04).

Kombu makes a client object for each command, and that costs more than most commands: with eight
of them between submit and settlement it is a millisecond of every task. A client holds nothing
but its connection pool, so it can be kept for as long as the pool. And what kombu cannot decode it
raises out of the worker's loop, which ends the worker: here it is dropped and logged.
"""

from __future__ import annotations

from typing import Any

import structlog
from kombu.transport import redis

from scheduler.connection import KEEPALIVE

UNREADABLE = (ValueError, TypeError, LookupError, AttributeError)
# Nobody is told of a connection that dies without a word: who waits on it has to give up.
TIMEOUTS = {
    "socket_timeout": 10.0,
    "socket_connect_timeout": 5.0,
    "socket_keepalive": True,
    "socket_keepalive_options": KEEPALIVE,
}

log = structlog.get_logger()


class Channel(redis.Channel):
    """A channel whose client for lone commands lives as long as its pool."""

    _kept: Any = None

    def _create_client(self, asynchronous: bool = False) -> Any:
        if asynchronous:
            return super()._create_client(asynchronous=True)  # type: ignore[no-untyped-call]
        # A channel that lost its connections makes itself a new pool.
        if self._kept is None or self._kept.connection_pool is not self.pool:
            self._kept = super()._create_client()  # type: ignore[no-untyped-call]
        return self._kept

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)  # type: ignore[no-untyped-call]
        except UNREADABLE as error:
            # It was popped before anyone could look at it: it is gone, and was only a hint.
            log.error("message refused", reason=f"not a message: {error}")
            return None


class Transport(redis.Transport):
    """What the schemes of a Redis broker name."""

    Channel = Channel
