"""An agent that costs as little as HTTP allows: `python -m bench.agent PORT`.

Every complete request gets the same answer. One process, keep-alive, no framework.
"""

from __future__ import annotations

import asyncio
import sys

BODY = b'{"output":{"n":1}}'
ANSWER = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(BODY)
) + BODY
HEAD_END = b"\r\n\r\n"


def requests_in(buffer: bytearray) -> int:
    """Takes every complete request off the front of `buffer`; says how many there were."""
    found = 0
    while (end := buffer.find(HEAD_END)) >= 0:
        whole = end + len(HEAD_END) + _length(bytes(buffer[:end]))
        if len(buffer) < whole:
            break
        del buffer[:whole]
        found += 1
    return found


def _length(head: bytes) -> int:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


class Agent(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        count = requests_in(self._buffer)
        if count and self._transport is not None:
            self._transport.write(ANSWER * count)


async def _serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Agent, "127.0.0.1", port, backlog=2048)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))
