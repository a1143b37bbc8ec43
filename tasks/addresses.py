"""Network addresses of agents: what a name resolves to, and which of them we may call.

An agent's URL is user input. Whatever its name resolves to, only an address that the policy
permits is ever connected to, and the check is made on the very address that is connected to.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult

Network = IPv4Network | IPv6Network

LOOPBACK: tuple[Network, ...] = (ip_network("127.0.0.0/8"), ip_network("::1/128"))

# Instance metadata and host agents outside 169.254.0.0/16: some are global, so name them.
METADATA = frozenset(
    ip_address(text)
    for text in ("100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254")
)
NAT64 = IPv6Network("64:ff9b::/96")


@dataclass(frozen=True, kw_only=True, slots=True)
class AddressPolicy:
    """Which addresses agents may live at: the global ones, and the networks in `allowed`.

    Link-local, multicast, unspecified and metadata addresses are never permitted, whatever
    `allowed` says. The default allows loopback, where the sample fleet lives.
    """

    allowed: tuple[Network, ...] = LOOPBACK

    def refusal(self, address: str) -> str | None:
        """Why `address` (numeric, IPv4 or IPv6) must not be called, or None if it may."""
        ip = _embedded(ip_address(address))
        if ip.is_link_local or ip.is_multicast or ip.is_unspecified or ip in METADATA:
            return f"{address} is never allowed (link-local, multicast, unspecified or metadata)"
        if ip.is_global or any(ip in network for network in self.allowed):
            return None
        return f"{address} is not a global address and not on the allow-list"


def _embedded(ip: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """The IPv4 address that an IPv6 address leads to through a gateway, or `ip` itself."""
    if isinstance(ip, IPv4Address):
        return ip
    if ip in NAT64:
        return IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.ipv4_mapped or ip.sixtofour or ip


class AddressRefused(OSError):
    """The policy forbids connecting to an address."""


def guarded_socket(policy: AddressPolicy, info: tuple[Any, ...]) -> socket.socket:
    """A socket for one `getaddrinfo` entry. Raises AddressRefused before anything is sent."""
    family, kind, proto, _, target = info
    refusal = policy.refusal(target[0])
    if refusal:
        raise AddressRefused(errno.EACCES, refusal)
    return socket.socket(family, kind, proto)


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
        """All stream addresses of `host`. Raises OSError if there is none."""
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
