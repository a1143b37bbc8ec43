"""Agents that keep to a cooldown: `python -m bench.limited PORT AGENTS COOLDOWN_S`.

Each refuses (429, Retry-After in whole seconds, rounded up) what arrives sooner than a cooldown
after the call it accepted last. `POST /N` calls agent N, `GET /log` says what came so far.
"""

from __future__ import annotations

import asyncio
import math
import sys
import time

from aiohttp import web


class Limited:
    """The agents of one process; the clock starts when a request has arrived."""

    def __init__(self, agents: int, cooldown_s: float) -> None:
        self._cooldown_s = cooldown_s
        self._opens_s = [0.0] * agents  # by the steady clock
        self._accepted: list[list[float]] = [[] for _ in range(agents)]  # seconds since the epoch
        self._refused = 0

    async def call(self, request: web.Request) -> web.Response:
        """Accept or refuse."""
        now_s, agent = time.monotonic(), int(request.match_info["agent"])
        wait_s = self._opens_s[agent] - now_s
        if wait_s > 0:
            self._refused += 1
            return web.Response(status=429, headers={"Retry-After": str(math.ceil(wait_s))})
        self._opens_s[agent] = now_s + self._cooldown_s
        self._accepted[agent].append(time.time())
        return web.json_response({"output": {"n": 1}})

    async def log(self, _: web.Request) -> web.Response:
        """When each agent accepted a call, and how many were refused."""
        return web.json_response({"accepted": self._accepted, "refused": self._refused})


async def _serve(port: int, limited: Limited) -> None:
    app = web.Application()
    app.add_routes([web.post(r"/{agent:\d+}", limited.call), web.get("/log", limited.log)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), Limited(int(sys.argv[2]), float(sys.argv[3]))))
