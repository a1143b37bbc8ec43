"""What anybody may ask, without a token: so asking often costs the servers nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

T = TypeVar("T")

REMEMBERED_S: Final = 1.0


class Remembered(Generic[T]):
    """An answer that is a second old at most. Who comes while it is asked for waits for the same
    one; what was raised is not remembered."""

    def __init__(self, ask: Callable[[], Awaitable[T]]) -> None:
        self._ask = ask
        self._answer: asyncio.Future[T] | None = None
        self._asked_s = 0.0

    async def get(self) -> T:
        """The answer. Raises what asking raised."""
        if self._answer is None or self._is_over(self._answer):
            self._asked_s = time.monotonic()
            self._answer = asyncio.ensure_future(self._ask())
        # One who leaves does not take the answer away from the others.
        return await asyncio.shield(self._answer)

    def _is_over(self, answer: asyncio.Future[T]) -> bool:
        if not answer.done():
            return False
        old = time.monotonic() - self._asked_s > REMEMBERED_S
        return old or answer.cancelled() or answer.exception() is not None
