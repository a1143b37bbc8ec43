"""A process between a client and PostgreSQL that strikes at one exact exchange of their protocol.

An exchange is whatever the client wants an answer to: a simple query, or all up to a Sync. They
are counted over all connections once a client has said `FROM_HERE`. Where `Proxy` in `proxy.py` is
told when to fail, this one counts, so that every exchange gets its turn.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum

CHUNK_BYTES = 1 << 16
ASKS_FOR_ANSWER = (ord("Q"), ord("S"))  # simple query, Sync
FROM_HERE = "chaos: count from here"
HEAD_BYTES = 5  # a type, then the length of what follows the type
READY_FOR_QUERY = b"Z\x00\x00\x00\x05"  # how the server ends an answer; the first ends the log-in


class Strike(StrEnum):
    """What happens at the chosen exchange."""

    LOSE = "lose"  # the server gets the request and works, its answer reaches nobody
    TEAR = "tear"  # the server gets half of the request, then the connection ends


class _Link:
    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client, self.server = client, server
        self.logged_in = False
        self.struck = False
        self._sent = bytearray()  # what is not a whole message yet

    def exchanges(self, data: bytes) -> int:
        """How many exchanges this piece of the client's stream completes."""
        self._sent += data
        found = 0
        while len(self._sent) >= HEAD_BYTES:
            size = 1 + int.from_bytes(self._sent[1:HEAD_BYTES])
            if len(self._sent) < size:
                break
            found += self._sent[0] in ASKS_FOR_ANSWER
            del self._sent[:size]
        return found

    def close(self) -> None:
        self.client.close()
        self.server.close()


class _Relay:
    """The proxy's loop, in a process of its own."""

    def __init__(
        self, listener: socket.socket, to_port: int, at: int, strike: Strike,
        struck: Callable[[], None],
    ) -> None:  # fmt: skip
        self._listener, self._to_port = listener, to_port
        self._left, self._strike, self._struck = at, strike, struck
        self._counts = False
        self._selector = selectors.DefaultSelector()
        self._links: dict[socket.socket, _Link] = {}

    def run(self) -> None:
        self._selector.register(self._listener, selectors.EVENT_READ)
        while True:
            for key, _ in self._selector.select():
                end = key.fileobj
                if end is self._listener:
                    self._accept()
                elif isinstance(end, socket.socket) and end in self._links:
                    self._pass_on(end, self._links[end])

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        server = socket.create_connection(("127.0.0.1", self._to_port))
        link = _Link(client, server)
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._links[end] = link
            self._selector.register(end, selectors.EVENT_READ)

    def _pass_on(self, end: socket.socket, link: _Link) -> None:
        try:
            data = end.recv(CHUNK_BYTES)
        except OSError:
            data = b""
        if not data:
            self._drop(link)
        elif end is link.client:
            self._request(link, data)
        elif link.struck:
            self._struck()  # the server has answered: it has done what it was asked
            self._drop(link)
        else:
            link.logged_in = link.logged_in or READY_FOR_QUERY in data
            link.client.sendall(data)

    def _request(self, link: _Link, data: bytes) -> None:
        before, exchanges = self._left, link.exchanges(data) if link.logged_in else 0
        if self._counts:
            self._left -= exchanges
        self._counts = self._counts or FROM_HERE.encode() in data
        if self._left <= 0 < before:
            if self._strike is Strike.TEAR:
                link.server.sendall(data[: len(data) // 2])
                self._struck()
                self._drop(link)
                return
            link.struck = True
        link.server.sendall(data)

    def _drop(self, link: _Link) -> None:
        for end in (link.client, link.server):
            if self._links.pop(end, None) is not None:
                self._selector.unregister(end)
        link.close()


@contextmanager
def striking(to_port: int, at: int, strike: Strike, struck: Callable[[], None]) -> Iterator[int]:
    """A proxy to a local port that strikes at exchange `at` (from 1), once; gives its own port.

    `struck` is called in the proxy's process at that moment, before the client can notice.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        child = os.fork()
        if child == 0:
            try:
                _Relay(listener, to_port, at, strike, struck).run()
            finally:
                os._exit(1)
    try:
        yield port
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
