"""The log's tree against RFC 6962: heads, proofs, and everything that is not a proof."""

from __future__ import annotations

import random
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.errors import InvariantBroken
from ledger.proof.errors import ProofRefused
from ledger.proof.merkle import (
    EMPTY_EDGE,
    EMPTY_ROOT,
    SIZE_MAX,
    Edge,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    node_hash,
    verify_consistency,
    verify_inclusion,
)
from tests.proof import naive
from tests.proof.naive import LEAVES, span

SIZES = 300
INPUTS = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657"]
INPUTS += ["606162636465666768696a6b6c6d6e6f"]
# The heads of the first one to eight of these inputs, as known from Certificate Transparency.
HEADS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def test_the_hashes_have_their_prefixes() -> None:
    assert EMPTY_ROOT.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert leaf_hash(b"") == sha256(b"\x00").digest()
    assert node_hash(b"l" * 32, b"r" * 32) == sha256(b"\x01" + b"l" * 32 + b"r" * 32).digest()


def test_the_well_known_heads() -> None:
    leaves = [leaf_hash(bytes.fromhex(text)) for text in INPUTS]
    for size, known in enumerate(HEADS, 1):
        assert naive.head(leaves[:size]).hex() == known
        assert EMPTY_EDGE.grown(leaves[:size]).root().hex() == known


def test_the_shapes_of_the_rfcs_example() -> None:
    """Section 2.1.3: a tree of seven leaves, its nodes named a to l."""
    a, b, c, d, e, f, j = LEAVES[:7]
    g, h, i = node_hash(a, b), node_hash(c, d), node_hash(e, f)
    k, last = node_hash(g, h), node_hash(i, j)
    assert inclusion_proof(0, 7, naive.node) == (b, h, last)
    assert inclusion_proof(3, 7, naive.node) == (c, g, last)
    assert inclusion_proof(4, 7, naive.node) == (f, j, k)
    assert inclusion_proof(6, 7, naive.node) == (i, k)
    assert consistency_proof(3, 7, naive.node) == (c, d, g, last)
    assert consistency_proof(4, 7, naive.node) == (last,)
    assert consistency_proof(6, 7, naive.node) == (i, j, k)


def test_inclusion_in_every_size() -> None:
    chance = random.Random(1)
    for size in range(1, SIZES + 1):
        for index in {0, size - 1, *(chance.randrange(size) for _ in range(10))}:
            proof = inclusion_proof(index, size, naive.node)
            assert list(proof) == naive.path(index, 0, size)
            verify_inclusion(LEAVES[index], index, size, proof, span(0, size))


def test_consistency_between_every_size() -> None:
    chance = random.Random(2)
    for new in range(1, SIZES + 1):
        for old in {1, new, *(chance.randint(1, new) for _ in range(10))}:
            proof = consistency_proof(old, new, naive.node)
            assert list(proof) == naive.subproof(old, 0, new, whole=True)
            verify_consistency(old, span(0, old), new, span(0, new), proof)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_every_change_of_an_inclusion_proof_is_refused(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, SIZES))
    index = data.draw(st.integers(0, size - 1))
    proof = inclusion_proof(index, size, naive.node)
    leaf, root = LEAVES[index], span(0, size)
    for other in range(size):
        if other != index:
            with pytest.raises(ProofRefused):
                verify_inclusion(leaf, other, size, proof, root)
    flip = data.draw(st.integers(0, 255))
    for changed in changes(proof, flip):
        with pytest.raises(ProofRefused):
            verify_inclusion(leaf, index, size, changed, root)
    with pytest.raises(ProofRefused, match="gives root"):
        verify_inclusion(flipped(leaf, flip), index, size, proof, root)
    with pytest.raises(ProofRefused, match="gives root"):
        verify_inclusion(leaf, index, size, proof, flipped(root, flip))


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_every_change_of_a_consistency_proof_is_refused(data: st.DataObject) -> None:
    new = data.draw(st.integers(1, SIZES))
    old = data.draw(st.integers(1, new))
    proof = consistency_proof(old, new, naive.node)
    flip = data.draw(st.integers(0, 255))
    for changed in changes(proof, flip):
        with pytest.raises(ProofRefused):
            verify_consistency(old, span(0, old), new, span(0, new), changed)
    with pytest.raises(ProofRefused):
        verify_consistency(old, flipped(span(0, old), flip), new, span(0, new), proof)
    with pytest.raises(ProofRefused):
        verify_consistency(old, span(0, old), new, flipped(span(0, new), flip), proof)
    other = data.draw(st.integers(1, new).filter(lambda size: size != old) | st.just(new + 1))
    with pytest.raises(ProofRefused):  # the old root is not the root of another size
        verify_consistency(other, span(0, old), new, span(0, new), proof)


def test_a_forged_beginning_is_not_consistent() -> None:
    """A log that rewrites its first leaf has no proof that leads from its old root."""
    forged = [leaf_hash(b"forged"), *LEAVES[1:13]]

    def node(level: int, index: int) -> bytes:
        return naive.head(forged[index << level : (index + 1) << level])

    for old in range(1, 13):
        proof = consistency_proof(old, 13, node)
        with pytest.raises(ProofRefused):
            verify_consistency(old, span(0, old), 13, naive.head(forged), proof)


@given(st.lists(st.integers(0, 70), max_size=12))
@settings(deadline=None)
def test_an_edge_grows_in_any_steps(steps: list[int]) -> None:
    edge = EMPTY_EDGE
    for step in steps:
        begin = edge.size % 600
        edge = edge.grown(LEAVES[begin : begin + step])
    leaves = [h for s, e in pairs(steps) for h in LEAVES[s % 600 : s % 600 + e - s]]
    assert edge.size == len(leaves)
    assert edge.root() == naive.head(leaves)
    assert Edge.decode(edge.size, edge.encode()) == edge


def pairs(steps: list[int]) -> list[tuple[int, int]]:
    ends = [sum(steps[: count + 1]) for count in range(len(steps))]
    return list(zip([0, *ends], ends, strict=False))


@pytest.mark.parametrize(
    ("size", "data"),
    [(1, b""), (0, bytes(32)), (3, bytes(32)), (3, bytes(65)), (-1, b""), (2**63, bytes(32))],
)
def test_an_edge_has_a_node_for_each_bit(size: int, data: bytes) -> None:
    with pytest.raises(ProofRefused, match="edge"):
        Edge.decode(size, data)


def test_no_leaves_are_consistent_with_any_leaves_by_an_empty_proof() -> None:
    verify_consistency(0, EMPTY_ROOT, 0, EMPTY_ROOT, [])
    verify_consistency(0, EMPTY_ROOT, 5, span(0, 5), [])
    assert consistency_proof(0, 5, naive.node) == ()
    assert consistency_proof(5, 5, naive.node) == ()
    for old, new in [(0, 0), (0, 5)]:
        with pytest.raises(ProofRefused, match="has 0 hashes, not 1"):
            verify_consistency(old, EMPTY_ROOT, new, span(0, new), [LEAVES[0]])
        with pytest.raises(ProofRefused, match="cannot be the root of 0"):
            verify_consistency(old, LEAVES[0], new, span(0, new), [])
    with pytest.raises(ProofRefused, match="cannot be the root of 0"):
        verify_consistency(0, EMPTY_ROOT, 0, LEAVES[0], [])


def test_a_tree_with_leaves_does_not_have_the_empty_root() -> None:
    with pytest.raises(ProofRefused, match="cannot be the root of 5"):
        verify_consistency(0, EMPTY_ROOT, 5, EMPTY_ROOT, [])
    with pytest.raises(ProofRefused, match="cannot be the root of 1"):
        verify_inclusion(EMPTY_ROOT, 0, 1, [], EMPTY_ROOT)


def test_equal_sizes_have_equal_roots_and_no_proof() -> None:
    verify_consistency(5, span(0, 5), 5, span(0, 5), [])
    with pytest.raises(ProofRefused, match="has 0 hashes, not 1"):
        verify_consistency(5, span(0, 5), 5, span(0, 5), [LEAVES[0]])
    with pytest.raises(ProofRefused, match="two roots for the same 5 leaves"):
        verify_consistency(5, span(0, 5), 5, span(1, 6), [])


def test_a_log_does_not_shrink() -> None:
    with pytest.raises(ProofRefused, match="shrank from 7 to 5"):
        verify_consistency(7, span(0, 7), 5, span(0, 5), [])


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_every_hash_has_32_bytes(length: int) -> None:
    proof, root, odd = inclusion_proof(2, 5, naive.node), span(0, 5), bytes(length)
    with pytest.raises(ProofRefused, match=f"hash 2 of the proof has {length} bytes"):
        verify_inclusion(LEAVES[2], 2, 5, [proof[0], odd, *proof[2:]], root)
    with pytest.raises(ProofRefused, match=f"leaf's hash has {length} bytes"):
        verify_inclusion(odd, 2, 5, proof, root)
    with pytest.raises(ProofRefused, match=f"root has {length} bytes"):
        verify_inclusion(LEAVES[2], 2, 5, proof, odd)
    path = consistency_proof(3, 5, naive.node)
    with pytest.raises(ProofRefused, match=f"hash 1 of the proof has {length} bytes"):
        verify_consistency(3, span(0, 3), 5, root, [odd, *path[1:]])
    with pytest.raises(ProofRefused, match=f"root has {length} bytes"):
        verify_consistency(3, odd, 5, root, path)
    with pytest.raises(ProofRefused, match=f"root has {length} bytes"):
        verify_consistency(3, span(0, 3), 5, odd, path)


@pytest.mark.parametrize(("index", "size"), [(5, 5), (9, 5), (-1, 5), (0, 0)])
def test_an_index_is_in_its_tree(index: int, size: int) -> None:
    with pytest.raises(ProofRefused, match="is not in a tree"):
        verify_inclusion(LEAVES[0], index, size, [], span(0, size))
    with pytest.raises(InvariantBroken):
        inclusion_proof(index, size, naive.node)


@pytest.mark.parametrize("size", [-1, SIZE_MAX + 1])
def test_a_size_is_a_number_of_leaves(size: int) -> None:
    with pytest.raises(ProofRefused, match="not a number of leaves"):
        verify_inclusion(LEAVES[0], 0, size, [], LEAVES[0])
    with pytest.raises(ProofRefused, match="not a number of leaves"):
        verify_consistency(1, LEAVES[0], size, LEAVES[0], [])


@pytest.mark.parametrize(("old", "new"), [(5, 3), (-1, 3)])
def test_no_proof_is_built_of_a_log_that_shrinks(old: int, new: int) -> None:
    with pytest.raises(InvariantBroken):
        consistency_proof(old, new, naive.node)


def changes(proof: tuple[bytes, ...], flip: int) -> list[list[bytes]]:
    """Each hash changed in one bit, left out, doubled; one too many before and after."""
    found = [[LEAVES[0], *proof], [*proof, LEAVES[0]]]
    for place, part in enumerate(proof):
        found.append([*proof[:place], flipped(part, flip), *proof[place + 1 :]])
        found.append([*proof[:place], *proof[place + 1 :]])
        found.append([*proof[:place], part, *proof[place:]])
    found += [list(proof[::-1])] if proof != proof[::-1] else []
    return found


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)
