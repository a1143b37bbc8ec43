"""The tree as this replica has computed it itself, from the entries.

Kept as tiles, so that the root of any earlier size can be told, and a rewritten log can be told
from ours leaf by leaf. Row M21.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from ledger.errors import InvariantBroken
from ledger.proof.merkle import HASH_BYTES, Edge, Node, parents
from ledger.proof.tiles import HEIGHT, WIDTH, Hashes, Tile, tile_width

Stored = Callable[[int, int], bytes]
"""`stored(level, number)`: the hashes of a tile that was saved."""


def fold(hashes: Sequence[bytes]) -> bytes:
    """The root of a page: of 256 hashes, or of another power of two."""
    while len(hashes) > 1:
        hashes = parents(hashes)
    return hashes[0]


def edge_of(size: int, node: Node) -> Edge:
    """The right edge of a tree of `size` leaves, by its nodes."""
    levels = [level for level in range(size.bit_length()) if size >> level & 1]
    return Edge(size=size, nodes=tuple(node(b, (size >> b) - 1) for b in reversed(levels)))


class Tree:
    """All hashes of a log of `size` leaves: the open tiles here, the others where they are saved.

    Mutable, for one thread.
    """

    def __init__(self, size: int, stored: Stored) -> None:
        self.size = size
        self._stored = stored
        self._fresh: dict[tuple[int, int], bytes] = {}  # complete, and not saved yet
        self._open: list[bytearray] = []  # by level
        for level in range(-(-size.bit_length() // HEIGHT)):
            width = (size >> HEIGHT * level) % WIDTH
            found = stored(level, (size >> HEIGHT * level) // WIDTH) if width else b""
            self._open.append(bytearray(found[: width * HASH_BYTES]))

    def put(self, page: int, hashes: Sequence[bytes], root: bytes | None) -> None:
        """The last page again, now with these leaf hashes; `root` is theirs when they are 256."""
        if page != self.size // WIDTH or len(hashes) < self.size % WIDTH:
            raise InvariantBroken(f"page {page} of {len(hashes)} on a tree of {self.size}")
        self.size = page * WIDTH + len(hashes)
        self._level(0)[:] = b"".join(hashes)
        level = 0
        while root is not None:
            self._fresh[level, page] = bytes(self._open[level])
            self._open[level].clear()
            level += 1
            above = self._level(level)
            above += root
            page, place = divmod(page, WIDTH)
            root = fold(split(above)) if place == WIDTH - 1 else None

    def tile(self, tile: Tile) -> bytes:
        """The hashes of a tile, as wide as is asked for."""
        place = (tile.level, tile.number)
        found = self._fresh.get(place)
        if found is None:
            is_open = tile.number == (self.size >> HEIGHT * tile.level) // WIDTH
            found = bytes(self._open[tile.level]) if is_open else self._stored(*place)
        return found[: tile.width * HASH_BYTES]

    def hashes(self, level: int, number: int) -> list[bytes]:
        """Those of a tile, as many as there are."""
        width = tile_width(level, number, self.size)
        return split(self.tile(Tile(level=level, number=number, width=width))) if width else []

    def root(self, size: int) -> bytes:
        """The root of the first `size` leaves."""
        return edge_of(size, Hashes(self.tile, size)).root()

    def whole(self) -> bool:
        """Whether every full tile adds up to its hash in the tile above. Reads all of them."""
        return all(
            self._adds_up(level, number)
            for level in range(len(self._open))
            for number in range((self.size >> HEIGHT * level) // WIDTH)
        )

    def unsaved(self) -> Iterator[tuple[int, int, bytes]]:
        """Level, number and hashes of every tile that is not saved as it is."""
        for (level, number), found in self._fresh.items():
            yield level, number, found
        for level, hashes in enumerate(self._open):
            if hashes:
                yield level, (self.size >> HEIGHT * level) // WIDTH, bytes(hashes)

    def saved(self) -> None:
        """All of them are saved now."""
        self._fresh.clear()

    def _adds_up(self, level: int, number: int) -> bool:
        above, place = divmod(number, WIDTH)
        found, over = self.hashes(level, number), self.hashes(level + 1, above)
        return len(found) == WIDTH and place < len(over) and fold(found) == over[place]

    def _level(self, level: int) -> bytearray:
        if level == len(self._open):
            self._open.append(bytearray())
        return self._open[level]


def split(data: bytes | bytearray) -> list[bytes]:
    """The hashes that stand one after the other."""
    return [bytes(data[at : at + HASH_BYTES]) for at in range(0, len(data), HASH_BYTES)]
