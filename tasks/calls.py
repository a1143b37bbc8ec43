"""Calls in flight: one event loop per worker process, fed by the execute step.

The step hands its attempts over and returns, so a slow agent holds nobody up: the loop waits for
thousands of answers at the price of one thread. What has finished is forwarded after a short
linger, together with whatever else finished meanwhile.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

import structlog

from ledger.model import AttemptKey, Reply
from tasks.addresses import AddressPolicy
from tasks.agents import AgentClient
from tasks.call import Call
from tasks.messages import CHUNK_MAX

LINGER_S = 0.003  # how long a reply waits for company while others are still out
BUSY = 16  # calls that are out; from here on a message for each few replies is what costs
LINGER_BUSY_S = 0.02

log = structlog.get_logger()
Forward = Callable[[Mapping[AttemptKey, Reply]], None]


class Calls:
    """The loop, its client and its outbox. `forward` gets replies in groups, in a thread."""

    def __init__(self, forward: Forward, addresses: AddressPolicy) -> None:
        self._forward = forward
        self._addresses = addresses
        self._loop = asyncio.new_event_loop()
        self._out: set[asyncio.Task[None]] = set()
        self._outbox: dict[AttemptKey, Reply] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._sending: set[asyncio.Future[None]] = set()
        self._client: AgentClient | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, name="calls", daemon=True)
        self._thread.start()
        self._wait(self._open())

    def start(self, calls: Sequence[Call]) -> None:
        """Begin all calls and return at once. Thread-safe."""
        self._loop.call_soon_threadsafe(self._start, calls)

    def close(self) -> None:
        """Wait for every call that is out (each has its own deadline), forward, and stop."""
        self._wait(self._drain())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _wait(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _open(self) -> None:
        self._client = await AgentClient(self._addresses).__aenter__()

    async def _drain(self) -> None:
        while self._out or self._sending or self._outbox:
            self._flush()
            await asyncio.wait([*self._out, *self._sending])
        if self._client is not None:
            await self._client.__aexit__(None, None, None)

    def _start(self, calls: Sequence[Call]) -> None:
        for call in calls:
            name = f"{call.key.task}:{call.key.attempt}"
            task = self._loop.create_task(self._call(call), name=name)
            self._out.add(task)
            task.add_done_callback(self._finished)

    async def _call(self, call: Call) -> None:
        if self._client is None:
            return
        self._outbox[call.key] = await self._client.call(
            call.agent,
            key=call.key,
            family=call.family,
            payload=call.payload,
            deadline_s=call.deadline_s,
        )

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._out.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("a call broke", call=task.get_name(), reason=repr(task.exception()))
        if not self._out or len(self._outbox) >= CHUNK_MAX:
            self._flush()
        elif self._timer is None:
            linger_s = LINGER_S if len(self._out) < BUSY else LINGER_BUSY_S
            self._timer = self._loop.call_later(linger_s, self._flush)

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._outbox:
            return
        replies, self._outbox = self._outbox, {}
        # Redis and Celery are blocking clients: they must not stop the loop.
        sending = self._loop.run_in_executor(None, self._forward, replies)
        self._sending.add(sending)
        sending.add_done_callback(self._sent)

    def _sent(self, sending: asyncio.Future[None]) -> None:
        self._sending.discard(sending)
        if sending.exception() is not None:
            # The replies are lost with their leases: the sweeper aborts these attempts.
            log.error("replies could not be forwarded", reason=repr(sending.exception()))
