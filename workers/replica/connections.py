"""Whose connections a replica keeps: anybody may open one, nobody so many that others get none."""

from __future__ import annotations

import asyncio
from typing import Final

from workers.gateway.protocol import Protocol

CONNECTIONS_MAX: Final = 4_000  # beyond them 503, so that there is room to answer at all
ADDRESS_MAX: Final = 64  # of one address; a log needs one


class Fair(Protocol):
    """Closes a connection at once whose address has enough of them."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count those that are open."""
        super().connection_made(transport)
        address = self.client and self.client[0]
        theirs = [c.client[0] for c in self.connections if isinstance(c, Fair) and c.client]
        if theirs.count(address or "") > ADDRESS_MAX:
            self.transport.close()
