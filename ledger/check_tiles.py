"""The tiles against the hashes below them: what is served must be what was signed. Row C7."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from ledger.proof.merkle import EMPTY_EDGE, HASH_BYTES
from ledger.proof.tiles import WIDTH

TILE_BYTES: Final = WIDTH * HASH_BYTES


class Tiles:
    """All tiles of the log, read once beside its leaves.

    Their rows come level by level and tile by tile, as the hashes that make them do. `fault` is
    the first that is wrong: what follows cannot be told apart from it.
    """

    def __init__(self, rows: Iterator[tuple[Any, ...]]) -> None:
        self.fault: tuple[str, str] | None = None
        self._rows = rows
        self._level, self._number = 0, 0  # of the tile that comes next
        self._open = b""  # hashes that do not fill a tile yet
        self._roots: list[bytes] = []  # of the tiles of this level

    def add(self, hashes: bytes) -> None:
        """The next hashes of the level."""
        self._open += hashes
        while len(self._open) >= TILE_BYTES:
            tile, self._open = self._open[:TILE_BYTES], self._open[TILE_BYTES:]
            self._compare(tile)

    def end(self) -> None:
        """There are no more leaves: the levels above, and nothing else."""
        while self._roots:
            roots, self._roots = self._roots, []
            self._level, self._number, self._open = self._level + 1, 0, b""
            self.add(b"".join(roots))
        row = next(self._rows, None)
        if row is not None:
            self._fail(f"{row[0]}/{row[1]}", "the log has no such tile")

    def _compare(self, tile: bytes) -> None:
        name = f"{self._level}/{self._number}"
        hashes = [tile[at : at + HASH_BYTES] for at in range(0, TILE_BYTES, HASH_BYTES)]
        root = EMPTY_EDGE.grown(hashes).root()
        row = next(self._rows, None)
        if row is None or row[:2] != (self._level, self._number):
            self._fail(name, "it is missing")
        elif bytes(row[2]) != tile:
            self._fail(name, "its hashes are not those below it")
        elif bytes(row[3]) != root:
            self._fail(name, "its root is not that of its hashes")
        self._roots.append(root)
        self._number += 1

    def _fail(self, name: str, violation: str) -> None:
        self.fault = self.fault or (f"log tile {name}", violation)
