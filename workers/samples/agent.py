"""A sample agent: a real HTTP process that outlines Python sources, well or badly.

`python -m workers.samples.agent --name NAME --port P --behaviour B --kind K --seed N`
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from workers.samples.garbling import garble
from workers.samples.outline import outline

PATHS = {"json": "/run", "openai": "/v1/chat/completions"}
BEHAVIOURS = ("good", "garble", "slow", "limited", "hang", "hold")
GARBLED = 0.4  # share of answers
HANGING = 0.15
SLOW_S = 0.6
BIG = 16_384  # characters of source that would hold up the other requests
REQUEST_MAX = 16 << 20  # bytes


@dataclass(slots=True)
class Bucket:
    """A token bucket, full at first. Times are the caller's, in seconds."""

    rate_per_s: float
    burst: int
    level: float = field(init=False)
    filled_at_s: float = 0.0

    def __post_init__(self) -> None:
        self.level = self.burst

    def take(self, now_s: float) -> float:
        """Take one token: 0. If there is none, take none: the seconds until there is one."""
        gained = (now_s - self.filled_at_s) * self.rate_per_s
        self.level = min(self.burst, self.level + gained)
        self.filled_at_s = now_s
        if self.level < 1:
            return (1 - self.level) / self.rate_per_s
        self.level -= 1
        return 0.0


class SampleAgent:
    """One agent's manners. The fate of its n-th request is fixed by its seed."""

    def __init__(self, *, behaviour: str, kind: str, seed: int, bucket: Bucket) -> None:
        self._behaviour = behaviour
        self._kind = kind
        self._rng = random.Random(seed)
        self._bucket = bucket
        self._released = asyncio.Event()
        self._held = 0

    def app(self) -> web.Application:
        """The routes: the agent itself, and for `hold` the two that drive it."""
        app = web.Application(client_max_size=REQUEST_MAX)
        app.router.add_post(PATHS[self._kind], self.run)
        if self._behaviour == "hold":
            app.router.add_get("/held", self.held)
            app.router.add_post("/release", self.release)
        return app

    async def run(self, request: web.Request) -> web.Response:
        """Outline the source of one task, in the agent's manner."""
        wait_s, garbled = await self._manner()
        if wait_s:
            return web.json_response(
                {"error": "rate limit reached"},
                status=429,
                headers={"Retry-After": str(math.ceil(wait_s))},
            )
        try:
            answer = await _outlined(self._source(await request.json()))
        except (ValueError, LookupError, TypeError, SyntaxError) as error:
            why = f"no Python source to outline: {type(error).__name__}: {error}"
            return web.json_response({"error": why}, status=400)
        text = garble(answer, self._rng) if garbled else json.dumps(answer)
        return web.Response(text=self._envelope(text), content_type="application/json")

    async def _manner(self) -> tuple[float, bool]:
        """Behave: (seconds to be asked to wait, whether the answer is spoiled)."""
        chance = self._rng.random()
        match self._behaviour:
            case "limited":
                return self._bucket.take(asyncio.get_running_loop().time()), False
            case "slow":
                await asyncio.sleep(SLOW_S)
            case "hang" if chance < HANGING:
                await asyncio.Event().wait()  # until the caller hangs up
            case "hold":
                await self._hold()
        return 0.0, self._behaviour == "garble" and chance < GARBLED

    async def _hold(self) -> None:
        self._held += 1
        try:
            await self._released.wait()
        finally:
            self._held -= 1

    def _source(self, question: Any) -> str:
        if self._kind == "json":
            return str(question["payload"]["source"])
        return str(json.loads(question["messages"][-1]["content"])["source"])

    def _envelope(self, text: str) -> str:
        if self._kind == "json":
            return f'{{"output": {text}}}'
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return json.dumps({"object": "chat.completion", "choices": [choice]})

    async def held(self, _request: web.Request) -> web.Response:
        """How many requests wait for the release."""
        return web.json_response({"held": self._held})

    async def release(self, _request: web.Request) -> web.Response:
        """Answer all that wait, and from now on at once."""
        self._released.set()
        return web.json_response({"released": self._held})


async def _outlined(source: str) -> dict[str, list[str]]:
    if len(source) < BIG:
        return outline(source)
    return await asyncio.to_thread(outline, source)


async def serve(agent: SampleAgent, *, name: str, port: int, kind: str) -> None:
    """Listen on loopback until SIGTERM or SIGINT. Port 0 takes a free one and says which."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    # Cancelled with their caller, hanging handlers do not pile up.
    runner = web.AppRunner(
        agent.app(), access_log=None, handler_cancellation=True, shutdown_timeout=0.2
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        bound = runner.addresses[0][1]
        print(f"{name} listens on http://127.0.0.1:{bound}{PATHS[kind]}", flush=True)
        await stop.wait()
    finally:
        await runner.cleanup()


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m workers.samples.agent")
    parser.add_argument("--name", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--behaviour", choices=BEHAVIOURS, required=True)
    parser.add_argument("--kind", choices=sorted(PATHS), default="json")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rate-per-s", type=float, default=5.0, help="behaviour limited")
    parser.add_argument("--burst", type=int, default=8, help="behaviour limited")
    return parser.parse_args(argv)


async def _main(given: argparse.Namespace) -> None:
    agent = SampleAgent(
        behaviour=given.behaviour,
        kind=given.kind,
        seed=given.seed,
        bucket=Bucket(rate_per_s=given.rate_per_s, burst=given.burst),
    )
    await serve(agent, name=given.name, port=given.port, kind=given.kind)


def main(argv: Sequence[str]) -> int:
    """Run one agent; 1 if it cannot listen."""
    given = _arguments(argv)
    try:
        asyncio.run(_main(given))
    except OSError as error:
        print(f"{given.name} cannot listen on port {given.port}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
