"""The tree of RFC 6962, section 2.1, as the text defines it: slow, recursive, for comparison."""

from __future__ import annotations

from functools import cache
from hashlib import sha256

LEAVES = [sha256(b"\x00entry %d" % number).digest() for number in range(700)]


def head(leaves: list[bytes]) -> bytes:
    """MTH of leaf hashes."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = split(len(leaves))
    return sha256(b"\x01" + head(leaves[:k]) + head(leaves[k:])).digest()


@cache
def span(begin: int, end: int) -> bytes:
    """MTH of LEAVES[begin:end], remembered."""
    if end - begin < 2:
        return head(LEAVES[begin:end])
    middle = begin + split(end - begin)
    return sha256(b"\x01" + span(begin, middle) + span(middle, end)).digest()


def node(level: int, index: int) -> bytes:
    return span(index << level, (index + 1) << level)


def path(m: int, begin: int, end: int) -> list[bytes]:
    """PATH(m, D[begin:end])."""
    if end - begin == 1:
        return []
    k = split(end - begin)
    if m < k:
        return [*path(m, begin, begin + k), span(begin + k, end)]
    return [*path(m - k, begin + k, end), span(begin, begin + k)]


def subproof(m: int, begin: int, end: int, *, whole: bool) -> list[bytes]:
    """SUBPROOF(m, D[begin:end], b)."""
    if m == end - begin:
        return [] if whole else [span(begin, end)]
    k = split(end - begin)
    if m <= k:
        return [*subproof(m, begin, begin + k, whole=whole), span(begin + k, end)]
    return [*subproof(m - k, begin + k, end, whole=False), span(begin, begin + k)]


def split(count: int) -> int:
    k = 1
    while k * 2 < count:
        k *= 2
    return k
