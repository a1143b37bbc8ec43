"""One fast agent that misbehaves by seed, in a thread, and remembers what it was asked and when."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import defaultdict
from types import TracebackType
from typing import Any, Self

from aiohttp import web

PROMPT_S = 0.02


class Agent:
    """Answers {"n": payload n}; one call in twenty fails in a manner of its own.

    `calls` holds for each task the wall-clock instants at which it was asked.
    """

    def __init__(self, *, seed: int, work_s: float = PROMPT_S, fails: bool = True) -> None:
        self._rng = random.Random(seed)
        self._work_s = work_s
        self._fails = fails
        self.calls: dict[str, list[float]] = defaultdict(list)
        self.url = ""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="agent", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._open(), self._loop).result(10)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _open(self) -> None:
        app = web.Application()
        app.router.add_post("/run", self._answer)
        self._runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=0.2
        )
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/run"

    async def _answer(self, request: web.Request) -> web.Response:
        asked: dict[str, Any] = await request.json()
        self.calls[asked["task"]].append(time.time())
        chance = self._rng.random()
        if self._fails and chance < 0.05:
            return await self._fail(chance)
        slow = self._fails and chance > 0.9
        await asyncio.sleep(20 * self._work_s if slow else self._work_s)
        return web.json_response({"output": {"n": asked["payload"]["n"]}})

    async def _fail(self, chance: float) -> web.Response:
        if chance < 0.01:
            await asyncio.Event().wait()  # until the caller hangs up
        if chance < 0.03:
            return web.json_response({"error": "out of order"}, status=500)
        return web.Response(text='{"output": {"answer"', content_type="application/json")
