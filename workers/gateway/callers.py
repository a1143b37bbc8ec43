"""Who is asking: bearer tokens, looked up once and remembered for seconds."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Final

from ledger.tokens import Token, split
from workers.gateway.problems import Refused
from workers.gateway.rates import Rates

REMEMBERED_S: Final = 5.0  # so long a revoked token may still be accepted
REMEMBERED_MAX: Final = 10_000
REALM: Final = 'Bearer realm="clearlane"'
ENDED: Final = {"revoked": "was revoked", "expired": "has expired"}
ANOTHER: Final = "have an operator make one: `clearlane tokens create`"

Find = Callable[[str], Awaitable[Token | None]]
"""A token by its id, from the ledger."""


class Callers:
    """Tells the holder of a valid token from everybody else; all use is on one event loop.

    A warm request costs no query. An address that came with too many refused tokens is not
    looked up any more; tokens that were valid here before still are, so that whoever shares the
    address with an intruder goes on working.
    """

    def __init__(self, find: Find, rates: Rates, now: Callable[[], datetime]) -> None:
        self._find = find
        self._rates = rates
        self._now = now
        self._known: OrderedDict[str, tuple[Token, float]] = OrderedDict()

    async def identify(self, authorization: str | None, address: str) -> Token:
        """The caller's token. Raises Refused (401, 429), Unavailable."""
        if authorization is None:
            raise unauthorized("it is missing", "send `Authorization: Bearer TOKEN`")
        parts = _parts(authorization)
        if parts is None:
            raise self._refuse(address, "it holds no token", "send `Authorization: Bearer TOKEN`")
        token = await self._look(*parts, address)
        fault = self._fault(token)
        if token is None or fault:
            raise self._refuse(address, fault, ANOTHER)
        self._rates.count_request(token.id)
        return token

    async def check(self, token: Token) -> None:
        """Look again at a caller that was let in. Raises Refused (401), Unavailable."""
        found = self._remembered(token.id)
        if found is None:
            asked_s = time.monotonic()
            found = await self._find(token.id)
            if found is not None:
                self._remember(found, asked_s)
        fault = self._fault(found)
        if fault:
            raise unauthorized(fault, ANOTHER, error="invalid_token")

    async def _look(self, token_id: str, secret: str, address: str) -> Token | None:
        token = self._remembered(token_id)
        if token is not None:
            return token if token.opens_with(secret) else None
        known = self._known.get(token_id)
        if known is None or not known[0].opens_with(secret):
            self._rates.check_address(address)
        asked_s = time.monotonic()
        token = await self._find(token_id)
        if token is None or not token.opens_with(secret):
            return None
        self._remember(token, asked_s)
        return token

    def _remembered(self, token_id: str) -> Token | None:
        known = self._known.get(token_id)
        fresh = known is not None and time.monotonic() - known[1] <= REMEMBERED_S
        return known[0] if known is not None and fresh else None

    def _remember(self, token: Token, asked_s: float) -> None:
        self._known[token.id] = (token, asked_s)
        self._known.move_to_end(token.id)
        if len(self._known) > REMEMBERED_MAX:
            self._known.popitem(last=False)

    def _fault(self, token: Token | None) -> str:
        """Why a token does not open, or nothing."""
        if token is None:
            return "this token is not known"
        state = token.state(self._now())
        return f"this token {ENDED[state]}" if state in ENDED else ""

    def _refuse(self, address: str, reason: str, remedy: str) -> Refused:
        self._rates.count_refusal(address)
        return unauthorized(reason, remedy, error="invalid_token")


def unauthorized(reason: str, remedy: str, *, error: str = "") -> Refused:
    """A 401 as RFC 6750 has it: without an error code when no token was sent at all."""
    challenge = f'{REALM}, error="{error}"' if error else REALM
    return Refused(401, "Authorization", reason, remedy, headers={"WWW-Authenticate": challenge})


def _parts(authorization: str) -> tuple[str, str] | None:
    scheme, _, text = authorization.partition(" ")
    return split(text.strip(" ")) if scheme.lower() == "bearer" else None
