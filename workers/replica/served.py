"""The tree that a log serves, held against the checkpoint it has signed, from the root down.

What passes here is what the checkpoint commits to: tiles and pages may be replayed one after the
other, before the last one has come. Row M21.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ledger.proof.checkpoint import Checkpoint
from ledger.proof.merkle import HASH_BYTES, inclusion_proof
from ledger.proof.notes import Note
from ledger.proof.receipts import Receipt
from ledger.proof.tiles import (
    HEIGHT,
    WIDTH,
    Bundle,
    Hashes,
    Tile,
    decode_bundle,
    tile_path,
    tile_width,
)
from workers.replica.faults import Damaged, PageDamaged
from workers.replica.replica import Page
from workers.replica.source import Source
from workers.replica.tree import edge_of, fold

Ours = Callable[[int, int], list[bytes]]
"""`ours(level, number)`: the hashes of a tile as the replica has computed them."""


class Served:
    """The tree of one checkpoint. Call `open` first. Raises Damaged, Unavailable."""

    def __init__(self, source: Source, checkpoint: Checkpoint) -> None:
        self._source = source
        self._size, self._root = checkpoint.size, checkpoint.root
        self._last: dict[int, list[bytes]] = {}  # by level: the tile at the right edge
        self._path: dict[int, tuple[int, list[bytes]]] = {}  # by level: the tile read last

    async def open(self) -> None:
        """Read the right edge: all the rest hangs on it."""
        for level in range(-(-self._size.bit_length() // HEIGHT)):
            number, width = divmod(self._size >> HEIGHT * level, WIDTH)
            if width:
                tile = Tile(level=level, number=number, width=width)
                self._last[level] = await self._source.tile(tile)
        node = Hashes(lambda tile: b"".join(self._last[tile.level]), self._size)
        if edge_of(self._size, node).root() != self._root:
            raise Damaged(f"the tiles served for {self._size} leaves have another root")

    async def tile(self, level: int, number: int) -> list[bytes]:
        """The hashes of a tile, proven."""
        if tile_width(level, number, self._size) < WIDTH:
            return self._last[level]
        kept = self._path.get(level)
        if kept is None or kept[0] != number:
            tile = Tile(level=level, number=number)
            hashes = await self._source.tile(tile)
            if fold(hashes) != await self._above(level, number):
                raise Damaged(f"{tile_path(tile)} is not the one that the checkpoint has")
            kept = self._path[level] = number, hashes
        return kept[1]

    async def first_difference(self, size: int, ours: Ours) -> int | None:
        """The first leaf in which our first `size` leaves are not the log's; None: none is."""
        for level in range(size.bit_length() // HEIGHT, -1, -1):
            width = (size >> HEIGHT * level) % WIDTH
            if width:
                found = await self._differing(level, (size >> HEIGHT * level) // WIDTH, ours)
                if found is not None:
                    return found
        return None

    async def page(self, number: int) -> Page:
        """A page of entries, and what its hashes must be."""
        width = tile_width(0, number, self._size)
        data = await self._source.bundle(Bundle(number=number, width=width))
        full = width == WIDTH
        return Page(
            number=number,
            data=data,
            width=width,
            root=await self._above(0, number) if full else None,
            hashes=None if full else self._last[0],
        )

    async def named(self, damaged: PageDamaged) -> Damaged:
        """The same damage, with the first leaf that is wrong."""
        hashes = await self.tile(0, damaged.page)
        for place, (found, right) in enumerate(zip(damaged.hashes, hashes, strict=True)):
            if found != right:
                leaf = damaged.page * WIDTH + place
                reason = f"the entry served has hash {found.hex()}, the checkpoint's {right.hex()}"
                return Damaged(reason, leaf=leaf)
        return damaged

    async def entry(self, leaf: int) -> bytes:
        """One leaf's bytes; the receipt says whether they are the log's."""
        if leaf >= self._size:
            raise Damaged(f"the tree has {self._size} leaves", leaf=leaf)
        page, place = divmod(leaf, WIDTH)
        entries = decode_bundle((await self.page(page)).data)
        if place >= len(entries):
            raise Damaged("the page ends before it", leaf=leaf)
        return entries[place]

    async def receipt(self, leaf: int, note: Note) -> str:
        """Proves that the entry is in the log that was signed."""
        if leaf >= self._size:
            raise Damaged(f"the tree has {self._size} leaves", leaf=leaf)
        found: dict[tuple[int, int], Sequence[bytes]] = {}
        number = leaf
        for level in range(-(-self._size.bit_length() // HEIGHT)):
            number //= WIDTH
            if tile_width(level, number, self._size):
                found[level, number] = await self.tile(level, number)
            if level in self._last:
                found[level, (self._size >> HEIGHT * level) // WIDTH] = self._last[level]
        node = Hashes(lambda tile: _whole(found[tile.level, tile.number], tile), self._size)
        proof = inclusion_proof(leaf, self._size, node)
        return Receipt(index=leaf, proof=proof, note=note).encode()

    async def _above(self, level: int, number: int) -> bytes:
        """The root of a full tile, from the tile above."""
        return (await self.tile(level + 1, number // WIDTH))[number % WIDTH]

    async def _differing(self, level: int, number: int, ours: Ours) -> int | None:
        pairs = zip(ours(level, number), await self.tile(level, number), strict=False)
        for place, (mine, theirs) in enumerate(pairs):
            if mine != theirs:
                child = number * WIDTH + place
                return child if level == 0 else await self._differing(level - 1, child, ours)
        return None


def _whole(hashes: Sequence[bytes], tile: Tile) -> bytes:
    return b"".join(hashes)[: tile.width * HASH_BYTES]
