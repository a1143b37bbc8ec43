"""How often a token may ask, and how often an address may come with a token that is refused.

Counted in this process's memory: several gateways allow as many times as much.
"""

from __future__ import annotations

import math
import time
from ipaddress import IPv6Address, ip_address

from limits import RateLimitItem, RateLimitItemPerMinute, RateLimitItemPerSecond
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter

from workers.gateway.problems import Refused

IPV6_SITE = 64  # bits: who has one address has all that share them


class Rates:
    """The two limits of one gateway. Raises Refused (429) with the time to wait."""

    def __init__(self, *, requests_per_s: int, refusals_per_min: int) -> None:
        self._requests = RateLimitItemPerSecond(requests_per_s)
        self._refusals = RateLimitItemPerMinute(refusals_per_min)
        self._storage = MemoryStorage()
        self._limiter = FixedWindowRateLimiter(self._storage)
        self._seen_s = 0.0

    def count_request(self, token: str) -> None:
        """One request of this token."""
        self._follow_clock()
        if not self._limiter.hit(self._requests, "token", token):
            raise self._refused(self._requests, "token", token, "requests of one token")

    def count_refusal(self, address: str) -> None:
        """One request from this address whose token was refused."""
        self._follow_clock()
        self._limiter.hit(self._refusals, "address", site(address))

    def check_address(self, address: str) -> None:
        """Refuse an address that came with too many refused tokens."""
        self._follow_clock()
        if not self._limiter.test(self._refusals, "address", site(address)):
            raise self._refused(
                self._refusals, "address", site(address), "refused tokens from one address"
            )

    def _refused(self, limit: RateLimitItem, kind: str, name: str, what: str) -> Refused:
        reset_s = self._limiter.get_window_stats(limit, kind, name).reset_time
        wait_s = max(1, math.ceil(reset_s - time.time()))
        return Refused(
            429,
            "Authorization",
            f"there are more than {limit.amount} {what} in {limit.get_expiry()} s",
            f"wait {wait_s} s",
            headers={"Retry-After": str(wait_s)},
        )

    def _follow_clock(self) -> None:
        """Windows end by the wall clock: set back, it would hold one open for hours."""
        now_s = time.time()
        if now_s < self._seen_s - 1:
            self._storage.reset()
        self._seen_s = now_s


def site(address: str) -> str:
    """What is counted as one address."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(IPv6Address(int(found) >> IPV6_SITE << IPV6_SITE))
    return str(found)
