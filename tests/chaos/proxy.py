"""A TCP proxy on loopback that can be told to fail: cut, hold back, lose the reply to a COMMIT."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

CHUNK_BYTES = 1 << 16
COMMIT = b"COMMIT\x00"  # how psycopg asks for it, in the simple and in the extended protocol


@dataclass(eq=False, kw_only=True)
class _Link:
    """One client's connection and ours to the server."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    swallows: bool = False  # the next answer of the server reaches nobody

    def cut(self) -> None:
        for writer in (self.client, self.server):
            writer.transport.abort()


Look = Callable[[_Link, bytes], bool]
"""Sees what passes; True cuts the connection instead."""


class Proxy:
    """Passes everything on to a local port, until told otherwise. Call it from any thread."""

    def __init__(self, to_port: int) -> None:
        self._to_port = to_port
        self._links: set[_Link] = set()
        self._commits_to_lose = 0
        self.commits_lost = 0
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._run(self._open())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def cut(self) -> int:
        """Reset every connection, as a firewall that forgot them does; how many there were."""
        count: int = self._run(self._cut())
        return count

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """Nobody listens while the block runs, and what was open is cut."""
        self._run(self._refuse())
        try:
            yield
        finally:
            self._run(self._listen())

    @contextmanager
    def holed(self) -> Iterator[None]:
        """A black hole while the block runs: connections open and stay, no byte gets through.

        What was on its way is lost with its connection: afterwards they are reset.
        """
        self._run(self._hole())
        try:
            yield
        finally:
            self._run(self._cut())
            self._run(self._fill())

    def lose_commits(self, count: int) -> None:
        """Let the next `count` COMMITs reach the server, and cut before the answer comes back."""
        self._commits_to_lose = count

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _open(self) -> None:
        self._flowing = asyncio.Event()
        self._flowing.set()
        await self._listen()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._link, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _refuse(self) -> None:
        self._server.close()
        await self._cut()

    async def _hole(self) -> None:
        self._flowing.clear()

    async def _fill(self) -> None:
        self._flowing.set()

    async def _cut(self) -> int:
        links = list(self._links)
        for link in links:
            link.cut()
        return len(links)

    async def _close(self) -> None:
        self._flowing.set()
        await self._refuse()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._to_port)
        except OSError:
            writer.transport.abort()
            return
        link = _Link(client=writer, server=back)
        self._links.add(link)
        pumps = [
            asyncio.create_task(self._pump(link, reader, back, self._asked)),
            asyncio.create_task(self._pump(link, there, writer, self._answered)),
        ]
        try:
            with suppress(asyncio.CancelledError):  # asyncio's streams would complain of it
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            self._links.discard(link)
            for end in (writer, back):
                end.close()

    async def _pump(
        self,
        link: _Link,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        look: Look,
    ) -> None:
        with suppress(OSError):
            while data := await source.read(CHUNK_BYTES):
                await self._flowing.wait()
                if look(link, data):
                    link.cut()
                    return
                sink.write(data)
                await sink.drain()

    def _asked(self, link: _Link, data: bytes) -> bool:
        if self._commits_to_lose and COMMIT in data:
            self._commits_to_lose -= 1
            link.swallows = True
        return False

    def _answered(self, link: _Link, _: bytes) -> bool:
        # An answer means that the server has committed: now it is lost.
        self.commits_lost += link.swallows
        return link.swallows
