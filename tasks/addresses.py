"""Network addresses of agents: which of them we may call.

An agent's URL is user input. Whatever its name resolves to, only an address that the policy
permits is ever connected to, and the check is made on the very address that is connected to.
"""

from __future__ import annotations

import errno
import re
import socket
import unicodedata
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


def host_refusal(host: str, policy: AddressPolicy) -> str | None:
    """Why a URL's host must not be called, as far as it says itself; None: it may be looked up."""
    try:
        return policy.refusal(str(ip_address(host)))
    except ValueError:
        return odd_spelling(host)


def odd_spelling(host: str) -> str | None:
    """Refuses a host that is an address in disguise; None: it is a name.

    What ends in a number is an address (WHATWG URL standard), and whoever spells it otherwise than
    `ipaddress` does hides where it leads: `2852039166`, `0x7f.1`, `0177.0.0.1`, wide digits.
    """
    plain = unicodedata.normalize("NFKC", host).replace("\u3002", ".").rstrip(".")
    if not NUMBER.fullmatch(plain.rpartition(".")[2]):
        return None
    return f"{host} is an odd spelling of an address; write it as four decimal numbers"


NUMBER = re.compile(r"[0-9]+|0[xX][0-9a-fA-F]*")


class AddressRefused(OSError):
    """The policy forbids connecting to an address."""


def guarded_socket(policy: AddressPolicy, info: tuple[Any, ...]) -> socket.socket:
    """A socket for one `getaddrinfo` entry. Raises AddressRefused before anything is sent."""
    family, kind, proto, _, target = info
    refusal = policy.refusal(target[0])
    if refusal:
        raise AddressRefused(errno.EACCES, refusal)
    return MeteredSocket(family, kind, proto)


WIRE_MAX = (1 << 20) + (256 << 10)  # bytes for one request: the largest body, its head and frames
READ_MAX = 64 << 10  # bytes at a time: parsing more of them would hold up the other calls
SAID_TOO_MUCH = errno.EMSGSIZE  # of an OSError: an agent sent more than WIRE_MAX


class MeteredSocket(socket.socket):
    """Counts what comes in, and ends what has no end.

    A body is counted where it is read. But interim answers, extensions of chunks or empty lines
    never become a body: an agent could send gigabytes of them for as long as its deadline is, and
    keep this process from its other calls.
    """

    said = 0

    def send(self, data: Any, flags: int = 0) -> int:
        """A new request, or more of it: what was said before is settled."""
        self.said = 0
        return super().send(data, flags)

    def recv(self, size: int, flags: int = 0) -> bytes:
        """What plain connections read with. Raises OSError SAID_TOO_MUCH."""
        data = super().recv(min(size, READ_MAX), flags)
        self._count(len(data))
        return data

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        """What TLS connections read with. Raises OSError SAID_TOO_MUCH."""
        count = super().recv_into(buffer, min(nbytes or len(buffer), READ_MAX), flags)
        self._count(count)
        return count

    def _count(self, count: int) -> None:
        self.said += count
        if self.said > WIRE_MAX:
            raise OSError(SAID_TOO_MUCH, f"more than {WIRE_MAX} bytes for one request")
