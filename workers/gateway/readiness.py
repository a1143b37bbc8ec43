"""Whether the servers behind the gateway answer; asked once a second, whoever wants to know."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import structlog

from ledger.errors import ClearlaneError
from tasks.text import printable

OK: Final = "ok"
UNFIT: Final = "it does not answer, or refuses"
REMEMBERED_S: Final = 1.0

log = structlog.get_logger()


class Readiness:
    """Anybody may ask, without a token: so asking often costs the servers nothing."""

    def __init__(self, probes: Mapping[str, Callable[[], Awaitable[None]]]) -> None:
        self._probes = probes
        self._turn = asyncio.Lock()
        self._checks: dict[str, str] = {}
        self._asked_s = 0.0

    async def checks(self) -> dict[str, str]:
        """Each server's name and `ok`, or that it is unfit. Why is in the log."""
        async with self._turn:
            if not self._checks or time.monotonic() - self._asked_s > REMEMBERED_S:
                answers = await asyncio.gather(*map(self._check, self._probes))
                self._checks = dict(zip(self._probes, answers, strict=True))
                self._asked_s = time.monotonic()
        return self._checks

    async def _check(self, name: str) -> str:
        try:
            await self._probes[name]()
        except ClearlaneError as error:
            log.warning("not ready", server=name, reason=printable(str(error)))
            return UNFIT
        return OK
