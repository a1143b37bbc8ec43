"""HTTP/1.1 as uvicorn speaks it, except that nobody may take for ever to send a request's head,
and that what is no request is told so like every other fault."""

from __future__ import annotations

import asyncio
from typing import Final, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from workers.gateway.problems import problem

ARRIVE_S: Final = 10.0


class Protocol(H11Protocol):
    """Closes a connection on which no request is served and none arrives in time.

    That is one with nothing or half a head on it, and one whose request was answered while its
    body still drips in.
    """

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the clock."""
        super().connection_made(cast("asyncio.Transport", transport))
        self._start_clock()

    def data_received(self, data: bytes) -> None:
        """Stop the clock while a request is served."""
        super().data_received(data)
        answered = self.cycle is not None and self.cycle.response_complete
        if self.conn.their_state is not h11.IDLE and not answered:
            self._stop_clock()
        elif self._late is None:
            self._start_clock()

    def send_400_response(self, msg: str) -> None:
        """What is not HTTP gets problem details too."""
        found = problem(400, f"request: {msg}; send HTTP/1.1")
        headers = [*found.raw_headers, (b"connection", b"close")]
        for event in (
            h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
            h11.Data(data=bytes(found.body)),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        self._stop_clock()
        super().connection_lost(exc)

    def _start_clock(self) -> None:
        self._late = self.loop.call_later(ARRIVE_S, self.transport.close)

    def _stop_clock(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None
