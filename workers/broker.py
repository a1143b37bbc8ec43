"""The way to the broker: kombu's Redis transport, with one client kept per channel (row M04).

Kombu makes a client object for each command, and that costs more than most commands: with eight
of them between submit and settlement it is a millisecond of every task. A client holds nothing
but its connection pool, so it can be kept for as long as the pool.
"""

from __future__ import annotations

from typing import Any

from kombu.transport import redis


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


class Transport(redis.Transport):
    """What the schemes of a Redis broker name."""

    Channel = Channel
