"""What anybody may ask costs one question a second."""

from __future__ import annotations

import asyncio

import pytest

from ledger.errors import Unavailable
from workers.gateway import remembered
from workers.gateway.remembered import Remembered


class Server:
    """Answers with how often it was asked, once it is let go; `down`: not at all."""

    def __init__(self) -> None:
        self.asked = 0
        self.down = False
        self.goes_on = asyncio.Event()

    async def ask(self) -> int:
        self.asked += 1
        await self.goes_on.wait()
        if self.down:
            raise Unavailable("server", "no answer", "start it")
        return self.asked


def test_those_who_come_at_once_and_soon_after_get_one_answer() -> None:
    async def run() -> None:
        server = Server()
        known = Remembered(server.ask)
        left, *others = [asyncio.create_task(known.get()) for _ in range(5)]
        await asyncio.sleep(0)
        left.cancel()  # takes the answer away from nobody
        server.goes_on.set()
        assert await asyncio.gather(*others) == [1] * 4
        assert await known.get() == 1

    asyncio.run(run())


def test_an_old_answer_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        server = Server()
        server.goes_on.set()
        known = Remembered(server.ask)
        monkeypatch.setattr(remembered, "REMEMBERED_S", -1.0)
        assert [await known.get() for _ in range(3)] == [1, 2, 3]

    asyncio.run(run())


def test_a_fault_is_for_those_who_wait_and_not_remembered() -> None:
    async def run() -> None:
        server = Server()
        server.down = True
        known = Remembered(server.ask)
        waiting = [asyncio.create_task(known.get()) for _ in range(3)]
        await asyncio.sleep(0)
        server.goes_on.set()
        found = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(error) for error in found] == [Unavailable] * 3
        assert server.asked == 1
        server.down = False
        assert await known.get() == 2

    asyncio.run(run())
