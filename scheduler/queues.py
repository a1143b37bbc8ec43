"""How many messages are on the conveyor: Celery's queues as Redis holds them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import redis

from scheduler.away import AWAY, unavailable

UNACKED = "unacked"  # kombu's hash of messages that a worker holds


@dataclass(frozen=True, kw_only=True, slots=True)
class Depths:
    """Messages that wait, by queue, and messages that workers hold."""

    waiting: dict[str, int]
    held: int


def depths(client: redis.Redis, queues: Sequence[str]) -> Depths:
    """Count the messages in one round trip. Raises Unavailable."""
    with client.pipeline(transaction=False) as pipe:
        for queue in queues:
            pipe.llen(queue)
        pipe.hlen(UNACKED)
        try:
            *lengths, held = pipe.execute()
        except AWAY as error:
            raise unavailable(error, "broker") from error
    return Depths(waiting=dict(zip(queues, map(int, lengths), strict=True)), held=int(held))
