"""How long the steps take, added up over all worker processes.

Each process adds what it measured since the last time to one hash; whoever asks reads it whole.
Losing Redis sets the counts back to zero, as a restart would.
"""

from __future__ import annotations

from collections.abc import Mapping

import redis

from scheduler.away import AWAY, unavailable

STEP_TIMES = "step_times"


class StepTimes:
    """The hash. Raises Unavailable while Redis does not answer."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client

    def add(self, counts: Mapping[str, int]) -> None:
        """Add to the counters named; one round trip whatever their number."""
        with self._redis.pipeline(transaction=False) as pipe:
            for name, count in counts.items():
                pipe.hincrby(STEP_TIMES, name, count)
            try:
                pipe.execute()
            except AWAY as error:
                raise unavailable(error) from error

    def read(self) -> dict[str, int]:
        """Every counter by name."""
        try:
            found = self._redis.hgetall(STEP_TIMES)
        except AWAY as error:
            raise unavailable(error) from error
        return {str(name): int(count) for name, count in dict(found).items()}
