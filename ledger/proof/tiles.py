"""Tiles and bundles: how the log is served and read (c2sp.org/tlog-tiles).

A tile holds up to 256 hashes of one level of every eighth: leaves, roots of 256 leaves, roots of
65,536 leaves … A bundle holds the entries of a tile of level 0, each behind its length.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from ledger.errors import InvariantBroken
from ledger.proof.errors import ProofRefused
from ledger.proof.merkle import HASH_BYTES, SIZE_MAX, parents

WIDTH: Final = 256
HEIGHT: Final = 8  # 2**HEIGHT is WIDTH
LEVEL_MAX: Final = 63
ENTRY_BYTES_MAX: Final = 65_535
PATH: Final = re.compile(
    r"tile/(?P<level>[0-9]{1,2}|entries)"
    r"/(?P<number>(?:x[0-9]{3}/){0,6}[0-9]{3})(?:\.p/(?P<width>[0-9]{1,3}))?",
    re.ASCII,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Tile:
    """One tile: `width` hashes (256 when complete) of tile level `level`."""

    level: int
    number: int
    width: int = WIDTH


@dataclass(frozen=True, kw_only=True, slots=True)
class Bundle:
    """The entries of one tile of level 0."""

    number: int
    width: int = WIDTH


def tile_path(tile: Tile) -> str:
    """`tile/0/x001/234.p/5`, below the log's prefix."""
    return f"tile/{tile.level}/{_number_path(tile.number, tile.width)}"


def bundle_path(bundle: Bundle) -> str:
    """`tile/entries/x001/234.p/5`, below the log's prefix."""
    return f"tile/entries/{_number_path(bundle.number, bundle.width)}"


def parse_path(path: str) -> Tile | Bundle:
    """The tile or bundle with exactly this path.

    Raises ProofRefused for every other spelling: a missing or extra `x`, zeros in front, a
    width of 0 or of 256 and more.
    """
    match = PATH.fullmatch(path)
    if match is None:
        raise _no_path(path)
    number = int(match["number"].replace("/", "").replace("x", ""))
    width = WIDTH if match["width"] is None else int(match["width"])
    if match["level"] == "entries":
        bundle = Bundle(number=number, width=width)
        same = bundle_path(bundle) == path
        found: Tile | Bundle = bundle
    else:
        tile = Tile(level=int(match["level"]), number=number, width=width)
        same = tile_path(tile) == path
        found = tile
    if not same or not 1 <= width <= WIDTH or number > SIZE_MAX:
        raise _no_path(path)
    if isinstance(found, Tile) and found.level > LEVEL_MAX:
        raise _no_path(path)
    return found


def tile_width(level: int, number: int, size: int) -> int:
    """How many hashes a tree of `size` leaves has in this tile: 0 when it has no such tile."""
    return max(0, min(WIDTH, (size >> HEIGHT * level) - number * WIDTH))


def tiles_of(size: int, since: int = 0) -> Iterator[Tile]:
    """The tiles of a tree of `size` leaves, level by level, complete ones first.

    `since`: leave out those that a tree of so many leaves has already, with the same width.
    """
    level = 0
    while size >> HEIGHT * level:
        first = (since >> HEIGHT * level) // WIDTH
        last = -(-(size >> HEIGHT * level) // WIDTH)
        for number in range(first, last):
            width = tile_width(level, number, size)
            if width != tile_width(level, number, since):
                yield Tile(level=level, number=number, width=width)
        level += 1


def encode_bundle(entries: Iterable[bytes]) -> bytes:
    """The entries, each behind its length in two bytes, big-endian."""
    parts: list[bytes] = []
    for entry in entries:
        if len(entry) > ENTRY_BYTES_MAX:
            raise InvariantBroken(f"an entry of {len(entry)} bytes; {ENTRY_BYTES_MAX} fit")
        parts += (len(entry).to_bytes(2, "big"), entry)
    return b"".join(parts)


def decode_bundle(data: bytes) -> list[bytes]:
    """The entries of a bundle. Raises ProofRefused when the data end inside an entry."""
    entries: list[bytes] = []
    at, end = 0, len(data)
    while at < end:
        start = at + 2
        at = start + (data[at] << 8 | data[at + 1] if start <= end else 0)
        if at > end:
            raise ProofRefused(f"the data end inside entry {len(entries)}", part="bundle")
        entries.append(data[start:at])
    return entries


class Hashes:
    """Reads the nodes of a tree of `size` leaves from its tiles: a `node` for the proofs.

    `fetch(tile)` gives the bytes of a tile; each tile is fetched once, and kept. What it gives
    is not trusted: a proof made of it is as good as the root it is checked against.
    """

    def __init__(self, fetch: Callable[[Tile], bytes], size: int) -> None:
        self._fetch = fetch
        self._size = size
        self._levels: dict[tuple[int, int], list[Sequence[bytes]]] = {}

    def __call__(self, level: int, index: int) -> bytes:
        """The root of leaves `index * 2**level` to `(index + 1) * 2**level`."""
        if (index + 1) << level > self._size:
            raise InvariantBroken(f"node {level}/{index} is not in {self._size} leaves")
        tile_level, height = divmod(level, HEIGHT)
        number, place = divmod(index, WIDTH >> height)
        levels = self._levels.get((tile_level, number))
        if levels is None:
            levels = self._levels[tile_level, number] = [self._read(tile_level, number)]
        while len(levels) <= height:
            levels.append(parents(levels[-1]))
        return levels[height][place]

    def _read(self, level: int, number: int) -> list[bytes]:
        width = tile_width(level, number, self._size)
        tile = Tile(level=level, number=number, width=width)
        return split_hashes(self._fetch(tile), tile)


def split_hashes(data: bytes, tile: Tile) -> list[bytes]:
    """The hashes of a tile. Raises ProofRefused when the data are not as wide as the tile."""
    if len(data) != tile.width * HASH_BYTES:
        wanted = tile.width * HASH_BYTES
        raise ProofRefused(f"{len(data)} bytes, not {wanted}", part=tile_path(tile))
    return [data[at : at + HASH_BYTES] for at in range(0, len(data), HASH_BYTES)]


def _number_path(number: int, width: int) -> str:
    digits = str(number)
    digits = digits.zfill(-(-len(digits) // 3) * 3)
    groups = [digits[at : at + 3] for at in range(0, len(digits), 3)]
    path = "/".join([f"x{group}" for group in groups[:-1]] + groups[-1:])
    return path if width == WIDTH else f"{path}.p/{width}"


def _no_path(path: str) -> ProofRefused:
    return ProofRefused(f"{path[:80]!r} is not the path of a tile or bundle", part="path")
