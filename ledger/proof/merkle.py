"""The Merkle tree of the log: roots, and proofs of inclusion and of consistency (RFC 6962, 9162).

A tree of n leaves is split at the largest power of two below n. Every proof is a list of the
ranges of leaves whose roots the checker lacks, so one walk gives the shape of a proof to the one
who builds it and to the one who checks it.

What peers disagree on is decided here: what is not proven is refused.
- 0 to 0 and 0 to n leaves are consistent with an empty proof and the empty tree's root only.
- n to n leaves: the roots are equal and the proof is empty; a hash too many is refused.
- A shrinking tree, an index outside the tree, a hash or root that is not 32 bytes: refused.
- A tree with leaves does not have the empty tree's root, nor an empty tree another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, Self

from ledger.errors import InvariantBroken
from ledger.proof.errors import ProofRefused
from ledger.proof.text import show_base64

HASH_BYTES: Final = 32
SIZE_MAX: Final = 2**63 - 1  # what every peer can count
EMPTY_ROOT: Final = sha256(b"").digest()

Node = Callable[[int, int], bytes]
"""`node(level, index)`: the root of leaves `index * 2**level` to `(index + 1) * 2**level`."""


def leaf_hash(entry: bytes) -> bytes:
    """The hash of a leaf: its own prefix, so no entry can pose as an inner node."""
    return sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The root of a tree whose two halves have these roots."""
    return sha256(b"\x01" + left + right).digest()


def parents(hashes: Sequence[bytes]) -> list[bytes]:
    """The level above: one hash for each pair; an odd one at the end has no parent yet."""
    pairs = iter(hashes)
    return [sha256(b"\x01" + left + right).digest() for left, right in zip(pairs, pairs)]  # noqa: B905


@dataclass(frozen=True, kw_only=True, slots=True)
class Edge:
    """The right edge of a tree of `size` leaves: all that is needed to append to it.

    `nodes` are the roots of its perfect subtrees, the largest first: one for each 1 in the
    binary form of `size`.
    """

    size: int
    nodes: tuple[bytes, ...]

    def root(self) -> bytes:
        """The tree's root."""
        if not self.nodes:
            return EMPTY_ROOT
        root = self.nodes[-1]
        for node in self.nodes[-2::-1]:
            root = node_hash(node, root)
        return root

    def grown(self, hashes: Sequence[bytes]) -> Edge:
        """The edge after these leaf hashes are appended."""
        old, size = list(self.nodes), self.size
        fresh: list[bytes] = list(hashes)
        kept: list[bytes] = []  # the new edge, the smallest subtree first
        while fresh:
            if size & 1:
                fresh.insert(0, old.pop())
            if len(fresh) & 1:
                kept.append(fresh[-1])
            fresh = parents(fresh)
            size >>= 1
        return Edge(size=self.size + len(hashes), nodes=(*old, *reversed(kept)))

    def encode(self) -> bytes:
        """The nodes, one after the other; the size says how many there are."""
        return b"".join(self.nodes)

    @classmethod
    def decode(cls, size: int, data: bytes) -> Self:
        """The edge of a tree of `size` leaves from what `encode` wrote."""
        if not 0 <= size <= SIZE_MAX or len(data) != size.bit_count() * HASH_BYTES:
            raise ProofRefused(f"{len(data)} bytes are not the edge of {size} leaves", part="edge")
        return cls(size=size, nodes=tuple(_cut(data)))


EMPTY_EDGE: Final = Edge(size=0, nodes=())


def _cut(data: bytes) -> Iterable[bytes]:
    return (data[at : at + HASH_BYTES] for at in range(0, len(data), HASH_BYTES))


def inclusion_proof(index: int, size: int, node: Node) -> tuple[bytes, ...]:
    """The hashes from the leaf's sibling up to the root's child."""
    if not 0 <= index < size:
        raise InvariantBroken(f"no proof of leaf {index} in a tree of {size} leaves")
    return tuple(_root(begin, end, node) for begin, end in _beside(index, size))


def consistency_proof(old: int, new: int, node: Node) -> tuple[bytes, ...]:
    """The hashes that show the first `old` leaves unchanged in the tree of `new` leaves."""
    if not 0 <= old <= new:
        raise InvariantBroken(f"no proof from {old} to {new} leaves: a log only grows")
    return tuple(_root(begin, end, node) for begin, end in _between(old, new))


def verify_inclusion(
    leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes
) -> None:
    """Raise ProofRefused unless `leaf` is the hash of leaf `index` in the tree with this root.

    `size` and `root` belong together, from one signed checkpoint: trees of several sizes can have
    the same path to a leaf, and a proof alone does not tell those sizes apart.
    """
    _check_tree(size, root)
    if not 0 <= index < size:
        raise ProofRefused(f"index {index} is not in a tree of {size} leaves")
    _check_hash("the leaf's hash", leaf)
    ranges = _beside(index, size)
    _check_proof(proof, len(ranges), f"leaf {index} of {size}")
    found = leaf
    for (begin, _), sibling in zip(ranges, proof, strict=True):
        found = node_hash(found, sibling) if begin > index else node_hash(sibling, found)
    if found != root:
        raise ProofRefused(
            f"leaf {index} with this proof gives root {show_base64(found)}, not "
            f"{show_base64(root)}: the entry, its index or a hash of the proof is not the log's"
        )


def verify_consistency(
    old_size: int, old_root: bytes, new_size: int, new_root: bytes, proof: Sequence[bytes]
) -> None:
    """Raise ProofRefused unless the old tree is proven to be the beginning of the new one."""
    _check_tree(old_size, old_root)
    _check_tree(new_size, new_root)
    if old_size > new_size:
        raise ProofRefused(f"the log shrank from {old_size} to {new_size} leaves")
    ranges = _between(old_size, new_size)
    _check_proof(proof, len(ranges), f"{old_size} to {new_size} leaves")
    if old_size == new_size and old_root != new_root:
        raise ProofRefused(f"two roots for the same {old_size} leaves: the log was rewritten")
    if not ranges:
        return
    # A perfect old tree is itself a node of the new one: its root is not sent again.
    begins_whole = ranges[0][0] >= old_size
    old = new = old_root if begins_whole else proof[0]
    start = 0 if begins_whole else 1
    for (begin, _), part in zip(ranges[start:], proof[start:], strict=True):
        if begin < old_size:
            old, new = node_hash(part, old), node_hash(part, new)
        else:
            new = node_hash(new, part)
    if old != old_root:
        raise ProofRefused(f"the proof gives another root for the first {old_size} leaves")
    if new != new_root:
        raise ProofRefused(f"the proof gives another root for all {new_size} leaves")


def _beside(index: int, size: int) -> list[tuple[int, int]]:
    """The ranges beside the path from leaf `index` to the root, the lowest first."""
    ranges, begin, end = [], 0, size
    while end - begin > 1:
        middle = begin + _split(end - begin)
        if index < middle:
            ranges.append((middle, end))
            end = middle
        else:
            ranges.append((begin, middle))
            begin = middle
    return ranges[::-1]


def _between(old: int, new: int) -> list[tuple[int, int]]:
    """The ranges that make up the old tree and the new one, the lowest first."""
    ranges, begin, end = [], 0, new
    if old == 0:
        return []
    while end != old:
        middle = begin + _split(end - begin)
        if old <= middle:
            ranges.append((middle, end))
            end = middle
        else:
            ranges.append((begin, middle))
            begin = middle
    if begin:
        ranges.append((begin, end))
    return ranges[::-1]


def _split(count: int) -> int:
    """The largest power of two below `count`, which is 2 or more."""
    return 1 << (count - 1).bit_length() - 1


def _root(begin: int, end: int, node: Node) -> bytes:
    """The root of the leaves from `begin` to `end`, a range that occurs in a proof."""
    nodes: list[bytes] = []
    while begin < end:  # the largest perfect subtrees first: `begin` is a multiple of each
        level = (end - begin).bit_length() - 1
        nodes.append(node(level, begin >> level))
        begin += 1 << level
    return Edge(size=end, nodes=tuple(nodes)).root()


def _check_tree(size: int, root: bytes) -> None:
    if not 0 <= size <= SIZE_MAX:
        raise ProofRefused(f"{size} is not a number of leaves")
    _check_hash("the root", root)
    if (root == EMPTY_ROOT) != (size == 0):
        raise ProofRefused(f"{root.hex()} cannot be the root of {size} leaves")


def _check_proof(proof: Sequence[bytes], needed: int, what: str) -> None:
    if len(proof) != needed:
        raise ProofRefused(f"a proof of {what} has {needed} hashes, not {len(proof)}")
    for number, part in enumerate(proof, 1):
        _check_hash(f"hash {number} of the proof", part)


def _check_hash(what: str, found: bytes) -> None:
    if len(found) != HASH_BYTES:
        raise ProofRefused(f"{what} has {len(found)} bytes, not {HASH_BYTES}")
