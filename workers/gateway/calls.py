"""Calls that block on a server, in threads of their own and bounded in time. Row M40."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

from ledger.errors import Unavailable

T = TypeVar("T")

_Job = tuple["Future[Any]", Callable[[], Any]]


class Calls:
    """So many threads for the calls to one server.

    Whoever asks is answered within the bound, also while the server neither answers nor breaks
    off: a call that has not begun by then never will; one that has goes on alone, and keeps its
    thread until the server lets go of it. So a stalled server costs these threads and no more.
    They are daemons: a stop does not wait for it either.
    """

    def __init__(self, what: str, *, threads: int, seconds: float) -> None:
        self._what = what
        self._threads = threads
        self._seconds = seconds
        self._jobs: SimpleQueue[_Job] = SimpleQueue()
        self._started = False

    async def run(self, call: Callable[[], T]) -> T:
        """What the call returns or raises. Raises Unavailable at the bound."""
        self._start()
        future: Future[T] = Future()
        self._jobs.put((future, call))
        try:
            async with asyncio.timeout(self._seconds):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            raise Unavailable(
                self._what, f"no answer within {self._seconds:g} s", "see `clearlane status`"
            ) from None

    def _start(self) -> None:
        if not self._started:
            self._started = True
            for number in range(self._threads):
                Thread(target=self._work, name=f"{self._what}{number}", daemon=True).start()

    def _work(self) -> None:
        while True:
            future, call = self._jobs.get()
            if not future.set_running_or_notify_cancel():
                continue  # nobody waits for it any more
            try:
                result = call()
            except BaseException as error:  # it belongs to whoever asked
                future.set_exception(error)
            else:
                future.set_result(result)
            del future, call
