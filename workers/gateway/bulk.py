"""Answers of megabytes: in pieces as the client takes them, within a bound that all share.

Whoever asks and does not read would else fill our memory: a complete bundle is up to 16 MiB.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from anyio import CapacityLimiter
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from workers.gateway.problems import Refused, answer

SENT_MAX_BYTES: Final = 128 << 20  # of all answers at a time
TOKEN_MAX_BYTES: Final = 64 << 20  # and of one token's: nobody keeps the others out
PIECE_BYTES: Final = 256 << 10  # what the server may have taken before the client has
READ_MAX: Final = 2  # made at a time: while it is made, one is several times its size


class Bulk:
    """One per application: the answers that are made and sent now."""

    def __init__(self) -> None:
        self.turns = CapacityLimiter(READ_MAX)
        self.sent_bytes = Counter[str]()  # by token

    def take(self, token: str, size: int) -> bool:
        """Whether there is room for another answer; it is this token's until it is given back."""
        full = self.sent_bytes.total() + size > SENT_MAX_BYTES
        if full or self.sent_bytes[token] + size > TOKEN_MAX_BYTES:
            return False
        self.sent_bytes[token] += size
        return True

    def give_back(self, token: str, size: int) -> None:
        """The answer is sent, or its client has gone."""
        self.sent_bytes[token] -= size
        if not self.sent_bytes[token]:
            del self.sent_bytes[token]


class BulkResponse(Response):
    """Bytes for a client that may be slow. Refused with 429 when too many are being sent."""

    def __init__(self, bulk: Bulk, token: str, data: bytes, media_type: str) -> None:
        super().__init__(data, media_type=media_type)
        self._bulk, self._token = bulk, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it, a piece each time the one before is gone."""
        size = len(self.body)
        if not self._bulk.take(self._token, size):
            await answer(_too_many())(scope, receive, send)
            return
        try:
            start = {"type": "http.response.start", "status": self.status_code}
            await send({**start, "headers": self.raw_headers})
            for at in range(0, size, PIECE_BYTES):
                piece = self.body[at : at + PIECE_BYTES]
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            self._bulk.give_back(self._token, size)


def _too_many() -> Refused:
    return Refused(
        429,
        "path",
        "too many large answers are being sent",
        "ask again in a second",
        headers={"Retry-After": "1"},
    )
