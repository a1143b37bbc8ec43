"""Tiles: which there are, what they are called, and that the tree can be read from them."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.errors import InvariantBroken
from ledger.proof.errors import ProofRefused
from ledger.proof.merkle import (
    EMPTY_EDGE,
    consistency_proof,
    inclusion_proof,
    verify_consistency,
    verify_inclusion,
)
from ledger.proof.tiles import (
    Bundle,
    Hashes,
    Tile,
    bundle_path,
    decode_bundle,
    encode_bundle,
    parse_path,
    tile_path,
    tile_width,
    tiles_of,
)
from tests.proof import naive
from tests.proof.naive import LEAVES, span

PATHS = {
    "tile/0/000": Tile(level=0, number=0),
    "tile/0/000.p/1": Tile(level=0, number=0, width=1),
    "tile/1/255.p/255": Tile(level=1, number=255, width=255),
    "tile/63/x001/000": Tile(level=63, number=1000),
    "tile/2/x001/x234/067": Tile(level=2, number=1_234_067),
    "tile/0/x010/x000/x000/009.p/10": Tile(level=0, number=10_000_000_009, width=10),
    "tile/entries/999": Bundle(number=999),
    "tile/entries/x001/x234/067.p/7": Bundle(number=1_234_067, width=7),
}
NOT_PATHS = [
    "tile/0/0",
    "tile/0/00",
    "tile/0/0000",
    "tile/00/000",
    "tile/01/000",
    "tile/64/000",
    "tile/-1/000",
    "tile/a/000",
    "tile/0/x000",
    "tile/0/x000/001",
    "tile/0/001/234",
    "tile/0/x001/x234",
    "tile/0/X001/234",
    "tile/0/x1/234",
    "tile/0/x000/x001/234",
    "tile/0/000.p/0",
    "tile/0/000.p/256",
    "tile/0/000.p/01",
    "tile/0/000.p/",
    "tile/0/000.p",
    "tile/0/000.P/5",
    "tile/0/000/5",
    "tile/0/000.p/5/",
    "/tile/0/000",
    "tile/0/000/",
    "tile/0/../000",
    "tile//000",
    "tile/0/٠٠١",
    "tile/entries/1",
    "tile/entries/000.p/256",
    "entries/000",
    "tile/data/000",
    "tile/0",
    "checkpoint",
    "tile/0/x999/x999/x999/x999/x999/x999/999",
]


def stored(size: int) -> dict[Tile, bytes]:
    """The tiles of the first `size` test leaves, by the definition in tlog-tiles."""
    found = {}
    for tile in tiles_of(size):
        unit = 256**tile.level
        first = tile.number * 256
        hashes = [span((first + i) * unit, (first + i + 1) * unit) for i in range(tile.width)]
        found[tile] = b"".join(hashes)
    return found


@pytest.mark.parametrize("path", PATHS)
def test_a_path_and_its_tile(path: str) -> None:
    found = PATHS[path]
    assert parse_path(path) == found
    assert (tile_path(found) if isinstance(found, Tile) else bundle_path(found)) == path


@pytest.mark.parametrize("path", [*NOT_PATHS, "", "tile/0/000\n", " tile/0/000", "tile/0/ 00"])
def test_no_other_spelling_is_a_path(path: str) -> None:
    with pytest.raises(ProofRefused, match="is not the path"):
        parse_path(path)


@given(st.integers(0, 63), st.integers(0, 2**62), st.integers(1, 256))
def test_every_path_is_read_back(level: int, number: int, width: int) -> None:
    tile = Tile(level=level, number=number, width=width)
    assert parse_path(tile_path(tile)) == tile
    bundle = Bundle(number=number, width=width)
    assert parse_path(bundle_path(bundle)) == bundle


@pytest.mark.parametrize(
    ("size", "full", "partial"),
    [
        (0, {}, []),
        (1, {}, [(0, 0, 1)]),
        (255, {}, [(0, 0, 255)]),
        (256, {0: 1}, [(1, 0, 1)]),
        (257, {0: 1}, [(0, 1, 1), (1, 0, 1)]),
        (70_000, {0: 273, 1: 1}, [(0, 273, 112), (1, 1, 17), (2, 0, 1)]),
        (65_536, {0: 256, 1: 1}, [(2, 0, 1)]),
    ],
)
def test_the_tiles_of_a_tree(
    size: int, full: dict[int, int], partial: list[tuple[int, int, int]]
) -> None:
    tiles = list(tiles_of(size))
    assert Counter(tile.level for tile in tiles if tile.width == 256) == full
    assert [(t.level, t.number, t.width) for t in tiles if t.width < 256] == partial
    assert all(tile_width(t.level, t.number, size) == t.width for t in tiles)


@given(st.integers(0, 200_000), st.integers(0, 3_000))
def test_what_an_append_adds(since: int, more: int) -> None:
    before = set(tiles_of(since))
    added = [tile for tile in tiles_of(since + more) if tile not in before]
    assert list(tiles_of(since + more, since)) == added


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 700), st.data())
def test_proofs_from_tiles_are_the_naive_ones(size: int, data: st.DataObject) -> None:
    tiles, fetched = stored(size), Counter[Tile]()

    def fetch(tile: Tile) -> bytes:
        fetched[tile] += 1
        return tiles[tile]

    node = Hashes(fetch, size)
    for _ in range(5):
        index = data.draw(st.integers(0, size - 1))
        proof = inclusion_proof(index, size, node)
        assert list(proof) == naive.path(index, 0, size)
        verify_inclusion(LEAVES[index], index, size, proof, span(0, size))
        path = consistency_proof(index + 1, size, node)
        assert list(path) == naive.subproof(index + 1, 0, size, whole=True)
        verify_consistency(index + 1, span(0, index + 1), size, span(0, size), path)
    assert all(count == 1 for count in fetched.values())


@pytest.mark.parametrize("size", [1, 255, 256, 257, 511, 512, 700])
def test_every_node_is_read_from_tiles(size: int) -> None:
    node = Hashes(stored(size).__getitem__, size)
    for level in range(size.bit_length()):
        for index in range(size >> level):
            assert node(level, index) == naive.node(level, index)
        with pytest.raises(InvariantBroken):
            node(level, size >> level)


def test_nodes_above_two_tiles() -> None:
    """65,536 leaves: the roots come from tile level 1, the top one from level 2."""
    ones = [EMPTY_EDGE.grown([bytes([i]) * 32] * 256).root() for i in range(256)]
    top = EMPTY_EDGE.grown(ones).root()
    tiles = {(1, 0): b"".join(ones), (2, 0): top}
    node = Hashes(lambda tile: tiles[tile.level, tile.number], 65_536)
    assert node(8, 77) == ones[77]
    assert node(9, 3) == naive.head(ones[6:8])
    assert node(16, 0) == top


@pytest.mark.parametrize("wrong", [b"", bytes(31), bytes(32 * 2), bytes(32 * 256)])
def test_a_tile_of_another_width_is_refused(wrong: bytes) -> None:
    node = Hashes(lambda _: wrong, 3)
    with pytest.raises(ProofRefused, match=r"tile/0/000\.p/3: \d+ bytes, not 96"):
        node(0, 0)


@given(st.lists(st.binary(max_size=300), max_size=300))
def test_a_bundle_is_read_back(entries: list[bytes]) -> None:
    assert decode_bundle(encode_bundle(entries)) == entries


def test_a_bundle_holds_entries_up_to_65535_bytes() -> None:
    assert decode_bundle(encode_bundle([bytes(65_535), b""])) == [bytes(65_535), b""]
    assert encode_bundle([b"ab", b""]) == b"\x00\x02ab\x00\x00"
    with pytest.raises(InvariantBroken, match="65536 bytes"):
        encode_bundle([bytes(65_536)])


@pytest.mark.parametrize(
    ("cut", "number"), [(1, 0), (2, 0), (3, 0), (5, 1), (6, 1), (7, 1), (8, 1)]
)
def test_a_bundle_that_is_cut_short_is_refused(cut: int, number: int) -> None:
    data = encode_bundle([b"ab", b"cde"])
    with pytest.raises(ProofRefused, match=f"inside entry {number}"):
        decode_bundle(data[:cut])
