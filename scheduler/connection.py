"""How Redis is reached."""

from __future__ import annotations

import socket

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

TIMEOUT_S = 5.0  # for one round trip
# A server that vanished without a word is noticed in seconds; not every system has all of these.
KEEPALIVE = {
    getattr(socket, name): value
    for name, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3))
    if hasattr(socket, name)
}


def connect(url: str) -> redis.Redis:
    """A client for `redis://` or `rediss://`; it connects on first use."""
    return redis.Redis.from_url(
        url,
        decode_responses=True,
        socket_keepalive=True,
        socket_keepalive_options=KEEPALIVE,
        health_check_interval=25,
        socket_timeout=TIMEOUT_S,
        socket_connect_timeout=TIMEOUT_S,
        # A connection that broke while it lay idle is replaced at once. All other waiting is the
        # caller's, who knows what may be sent twice.
        retry=Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
    )
