"""How many requests may wait at a time, in all and for one token."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from workers.gateway.problems import Refused

AGAIN_S = 5


class Waits:
    """Places for requests that wait; all use is on one event loop."""

    def __init__(self, *, total_max: int, token_max: int) -> None:
        self._total_max = total_max
        self._token_max = token_max
        self._taken: Counter[str] = Counter()
        self._total = 0

    @contextmanager
    def place(self, token: str, wait_s: float) -> Iterator[None]:
        """Hold a place for the length of the block, if there is anything to wait for.

        Raises Refused (429) when none is free: before anything was done.
        """
        if not wait_s:
            yield
            return
        self._refuse(token)
        self._taken[token] += 1
        self._total += 1
        try:
            yield
        finally:
            self._total -= 1
            self._taken[token] -= 1
            if not self._taken[token]:
                del self._taken[token]

    def _refuse(self, token: str) -> None:
        if self._taken[token] >= self._token_max:
            reason = f"{self._token_max} requests of this token wait already"
        elif self._total >= self._total_max:
            reason = f"{self._total_max} requests wait already"
        else:
            return
        raise Refused(
            429,
            "wait",
            reason,
            "ask again later, or without `wait`",
            headers={"Retry-After": str(AGAIN_S)},
        )
