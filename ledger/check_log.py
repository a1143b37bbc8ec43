"""The log against the books: pages, tiles and the tree, and one leaf for each transaction. Row C7.

What a replay of the leaves alone shows is not repeated here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection

from ledger.check_tiles import Tiles
from ledger.db import scan
from ledger.errors import BadInput
from ledger.proof.entries import decode
from ledger.proof.merkle import EMPTY_EDGE, Edge, leaf_hash
from ledger.proof.tiles import decode_bundle

PAGES: Final = 64  # in memory at a time
MOVING: Final = frozenset({"mint", "settle", "clear", "top_up"})  # leaves that have a transaction


class _Page(NamedTuple):
    size: int
    first: int
    epoch: int
    entries: bytes
    hashes: bytes
    edge: bytes
    root: bytes


def log_violations(connection: Connection) -> Iterator[tuple[str, str]]:
    """Subject and violation: of the pages the first one, of the leaves the first one, and of the
    tiles the first one; what follows cannot be told apart from it."""
    edge = EMPTY_EDGE
    books = _Books(scan(connection, "check_transactions"))
    tiles = Tiles(scan(connection, "check_tiles", at_a_time=PAGES))
    for row in scan(connection, "check_pages", at_a_time=PAGES):
        page = _Page._make(row)
        try:
            entries = decode_bundle(bytes(page.entries))
        except BadInput as error:
            yield f"log page {page.size}", f"no bundle of leaves: {error.reason}"
            return
        edge, fault = _grown(page, edge, entries)
        if fault is not None:
            yield f"log page {page.size}", fault
            return
        tiles.add(bytes(page.hashes))
        for index, entry in enumerate(entries, page.first):
            fault = books.fault(index, entry, page.epoch)
            if fault is not None:
                yield f"leaf {index}", fault
                return
    rest = books.rest()
    if rest is not None:
        yield rest, "its leaf is not in the log"
    tiles.end()
    if tiles.fault is not None:
        yield tiles.fault


def _grown(page: _Page, edge: Edge, entries: Sequence[bytes]) -> tuple[Edge, str | None]:
    """The tree with this page, and what is wrong with it."""
    hashes = [leaf_hash(entry) for entry in entries]
    if page.first != edge.size or page.size != edge.size + len(entries):
        return edge, f"leaves {page.first} to {page.size} are not the {len(entries)} that come next"
    grown = edge.grown(hashes)
    if bytes(page.hashes) != b"".join(hashes):
        return grown, "its hashes are not those of its leaves"
    if (bytes(page.edge), bytes(page.root)) != (grown.encode(), grown.root()):
        return grown, "its root is not that of the leaves"
    return grown, None


class _Books:
    """The transactions, in the order of their leaves."""

    def __init__(self, rows: Iterator[tuple[Any, ...]]) -> None:
        self._rows = rows
        self._next = next(rows, None)

    def fault(self, index: int, entry: bytes, epoch: int) -> str | None:
        """What is wrong with a leaf."""
        try:
            leaf = decode(entry)
        except BadInput as error:
            return f"{error.field}: {error.reason}"
        if leaf["epoch"] != epoch:
            return f"it says epoch {leaf['epoch']} on a page of epoch {epoch}"
        if leaf["type"] not in MOVING:
            return None
        row, self._next = self._next, next(self._rows, None)
        if row is None or row[1] != index:
            return f"no transaction has this {leaf['type']} leaf"
        return self._differs(row, leaf)

    @staticmethod
    def _differs(row: tuple[Any, ...], leaf: dict[str, Any]) -> str | None:
        number, _, kind, task, postings = row
        if (kind, task) != (leaf["type"], leaf.get("task")):
            return f"transaction {number} is a {kind} of task {task}"
        if sorted(postings or []) != sorted(" ".join(pair) for pair in leaf["postings"]):
            return f"transaction {number} has other postings"
        return None

    def rest(self) -> str | None:
        """The first transaction whose leaf never came."""
        return None if self._next is None else f"transaction {self._next[0]}"
