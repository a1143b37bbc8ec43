"""When Redis counts as away: it does not answer, or says that it takes nothing now. Row M04.

redis-py makes errors of a command out of some of these answers, and an error of a command ends a
Celery worker, spends its restart budget and passes by whoever waits for a server. So their codes
get a class that every reader of Redis in the process, Celery's included, takes for a lost
connection: it is waited for.
"""

from __future__ import annotations

from typing import Any

import redis
from redis.connection import DefaultParser

from ledger.errors import Unavailable


class Refusing(redis.exceptions.BusyLoadingError):
    """It runs and takes no change: its disk or its memory is full, or it is a replica."""


REFUSALS = ("MISCONF", "OOM", "READONLY")
"""The first words of such answers."""

AWAY = (redis.ConnectionError, redis.TimeoutError, redis.exceptions.TryAgainError)

# The table is one for all parsers of redis-py.
_classes: dict[str, Any] = DefaultParser.EXCEPTION_CLASSES
_classes.update(dict.fromkeys(REFUSALS, Refusing))


def unavailable(error: Exception, what: str = "redis") -> Unavailable:
    """What the rooms above are told of one of AWAY."""
    if isinstance(error, Refusing):
        return Unavailable(
            what, f"it takes no change: {error}", "make room on its disk and in its memory"
        )
    return Unavailable(what, str(error), "check REDIS_URL and that the server runs")
