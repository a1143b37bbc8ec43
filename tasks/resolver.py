"""Names of agents, looked up in threads of their own."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult

from tasks.addresses import AddressRefused, odd_spelling

Lookup = Callable[..., list[tuple[Any, ...]]]
"""`socket.getaddrinfo` or the like."""

LOOKUPS_MAX = 32  # at a time


class Resolver(AbstractResolver):
    """Resolves names in threads of its own.

    The loop's default threads are few: a handful of agents with dead name servers would hold
    up every other agent's connection (row M40).
    """

    def __init__(self, lookup: Lookup = socket.getaddrinfo) -> None:
        self._lookup = lookup
        self._threads = ThreadPoolExecutor(LOOKUPS_MAX, thread_name_prefix="dns")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """All stream addresses of `host`. Raises OSError if there is none.

        Addresses in their plain spelling do not come here: what ends in a number is an odd one.
        """
        odd = odd_spelling(host)
        if odd:
            raise AddressRefused(errno.EACCES, odd)
        infos = await asyncio.get_running_loop().run_in_executor(
            self._threads, self._lookup, host, port, family, socket.SOCK_STREAM
        )
        return [
            ResolveResult(
                hostname=host,
                host=target[0],
                port=target[1],
                family=found,
                proto=proto,
                flags=socket.AI_NUMERICHOST,
            )
            for found, _, proto, _, target in infos
        ]

    async def close(self) -> None:
        """Forget lookups that are still waiting."""
        self._threads.shutdown(wait=False, cancel_futures=True)
