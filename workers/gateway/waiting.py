"""Waiting for tasks to end without polling: one listener for everybody who waits.

A notification, or its absence, is only a hint: whoever waits reads the ledger after subscribing,
and again whenever notifications may have been missed. Row C10.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable
from contextlib import suppress
from typing import Any

import structlog
from fastapi import Request

from ledger.db import ENDED
from ledger.errors import Unavailable
from ledger.listen import Listener

HEAR_S = 0.5  # the longest a stop waits for the listening thread
CHECK_S = 5.0  # between two looks at the token of whoever waits
OUTAGE_S = 1.0  # pause while PostgreSQL is away
JOIN_S = 3.0

log = structlog.get_logger()

Ended = Callable[[Collection[str]], Awaitable[Collection[str]]]
"""Which of the given tasks have ended, read from the ledger."""


class _Waiter:
    """One request. `pending` shrinks as its tasks end; `unsure`: read the ledger again."""

    def __init__(self, tasks: Collection[str]) -> None:
        self.pending = set(tasks)
        self.unsure = True
        self.woken = asyncio.Event()

    def look(self) -> None:
        self.unsure = True
        self.woken.set()


class Endings:
    """Wakes requests when their tasks end. All but the listening thread is on one event loop."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._waiters: dict[str, set[_Waiter]] = {}
        self._released = False
        self._stopped = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._listen, name="endings", daemon=True)

    def start(self) -> None:
        """Listen, on behalf of the running loop, through every outage."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def release(self) -> None:
        """Let go of everybody who waits, now and from now on: the gateway is stopping."""
        self._released = True
        self._look_again()

    async def stop(self) -> None:
        """Release everybody and end the thread."""
        self.release()
        self._stopped.set()
        # Not for ever: a stalled server holds the thread, which is a daemon.
        await asyncio.to_thread(self._thread.join, JOIN_S)

    async def wait(self, tasks: Collection[str], ended: Ended, timeout_s: float) -> None:
        """Return when all tasks have ended, at the latest after `timeout_s` or at the stop.

        Raises what `ended` raises.
        """
        waiter = _Waiter(tasks)
        for task in tasks:
            self._waiters.setdefault(task, set()).add(waiter)
        try:
            async with asyncio.timeout(timeout_s):
                await self._until_ended(waiter, ended)
        except TimeoutError:
            pass
        finally:
            for task in tasks:
                self._forget(task, waiter)

    async def _until_ended(self, waiter: _Waiter, ended: Ended) -> None:
        while waiter.pending and not self._released:
            waiter.woken.clear()
            if waiter.unsure:
                waiter.unsure = False
                waiter.pending -= set(await ended(list(waiter.pending)))
            else:
                await waiter.woken.wait()

    def _forget(self, task: str, waiter: _Waiter) -> None:
        others = self._waiters[task]
        others.discard(waiter)
        if not others:
            del self._waiters[task]

    def _listen(self) -> None:
        heard = True
        while not self._stopped.is_set():
            try:
                with Listener(self._url, ENDED) as listener:
                    heard = True
                    self._post(self._look_again)
                    self._hear(listener)
            except Unavailable as error:
                if heard:
                    log.warning("cannot hear of ended tasks, trying again", reason=str(error))
                heard = False
                self._stopped.wait(OUTAGE_S)

    def _hear(self, listener: Listener) -> None:
        while not self._stopped.is_set():
            for _, payload in listener.wait(HEAR_S):
                tasks = _tasks(payload)
                if tasks is None:
                    self._post(self._look_again)
                else:
                    self._post(self._mark, tasks)

    def _post(self, call: Callable[..., None], *arguments: object) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(call, *arguments)

    def _mark(self, tasks: Iterable[str]) -> None:
        for task in tasks:
            for waiter in self._waiters.get(task, ()):
                waiter.pending.discard(task)
                if not waiter.pending:
                    waiter.woken.set()

    def _look_again(self) -> None:
        """Notifications may have been missed: everybody reads the ledger once more."""
        for waiters in self._waiters.values():
            for waiter in waiters:
                waiter.look()


async def unless_gone(
    request: Request, waiting: Coroutine[Any, Any, None], check: Callable[[], Awaitable[None]]
) -> None:
    """Wait, unless the client has gone: then nobody is there to be told.

    `check` looks at the caller's token again, while it waits and before it is told anything: it
    raises what the caller gets instead.
    """

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    async def shut_out() -> None:
        while True:
            await asyncio.sleep(CHECK_S)
            with suppress(Unavailable):  # no reason to end a wait that outlives an outage
                await check()

    parts = [asyncio.ensure_future(part) for part in (waiting, gone(), shut_out())]
    try:
        done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
        for part in done:
            part.result()
        await check()
    finally:
        for part in parts:
            part.cancel()


def _tasks(payload: str) -> list[str] | None:
    """The tasks that a notification names, None if it does not say which."""
    try:
        found = json.loads(payload)
    except ValueError:
        return None
    return [str(task) for task in found] if isinstance(found, list) else None
