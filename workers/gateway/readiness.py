"""Whether the servers behind the gateway answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import structlog

from ledger.errors import ClearlaneError
from tasks.text import printable
from workers.gateway.remembered import Remembered

OK: Final = "ok"
UNFIT: Final = "it does not answer, or refuses"

log = structlog.get_logger()


class Readiness:
    """Asked once a second, whoever wants to know."""

    def __init__(self, probes: Mapping[str, Callable[[], Awaitable[None]]]) -> None:
        self._probes = probes
        self._checks = Remembered(self._ask)

    async def checks(self) -> dict[str, str]:
        """Each server's name and `ok`, or that it is unfit. Why is in the log."""
        return await self._checks.get()

    async def _ask(self) -> dict[str, str]:
        answers = await asyncio.gather(*map(self._check, self._probes))
        return dict(zip(self._probes, answers, strict=True))

    async def _check(self, name: str) -> str:
        try:
            await self._probes[name]()
        except ClearlaneError as error:
            log.warning("not ready", server=name, reason=printable(str(error)))
            return UNFIT
        return OK
