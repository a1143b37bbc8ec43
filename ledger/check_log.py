"""The log: its pages, the tree over them, the tiles, and every leaf in its turn. Row C7."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple

from sqlalchemy import Connection

from ledger.check_leaves import Leaves
from ledger.check_tiles import Tiles
from ledger.db import scan
from ledger.proof.errors import ProofRefused
from ledger.proof.merkle import EMPTY_EDGE, EMPTY_ROOT, Edge, leaf_hash
from ledger.proof.tiles import decode_bundle

PAGES: Final = 64  # in memory at a time


class _Page(NamedTuple):
    size: int
    first: int | None
    epoch: int | None
    at: datetime
    entries: bytes
    hashes: bytes
    edge: bytes
    root: bytes


EMPTY: Final = _Page(0, None, None, datetime(1970, 1, 1, tzinfo=UTC), b"", b"", b"", EMPTY_ROOT)


def log_violations(connection: Connection) -> Iterator[tuple[str, str]]:
    """Subject and violation: of the pages the first one, of the leaves the first one, and of the
    tiles the first one; what follows cannot be told apart from it. After the last leaf all that
    differs from what the leaves add up to."""
    pages = map(_Page._make, scan(connection, "check_pages", at_a_time=PAGES))
    if next(pages, None) != EMPTY:
        yield "log page 0", "it is not the empty log with which every log begins"
        return
    edge = EMPTY_EDGE
    leaves = Leaves(connection)
    tiles = Tiles(scan(connection, "check_tiles", at_a_time=PAGES))
    for page in pages:
        try:
            entries = decode_bundle(page.entries)
        except ProofRefused as error:
            yield f"log page {page.size}", f"no bundle of leaves: {error}"
            return
        edge, fault = _grown(page, edge, entries)
        if fault is not None:
            yield f"log page {page.size}", fault
            return
        tiles.add(page.hashes)
        for entry in entries:
            wrong = leaves.fault(entry, page.epoch, page.at)
            if wrong is not None:
                yield wrong
                return
    yield from leaves.rest()
    tiles.end()
    if tiles.fault is not None:
        yield tiles.fault


def _grown(page: _Page, edge: Edge, entries: Sequence[bytes]) -> tuple[Edge, str | None]:
    """The tree with this page, and what is wrong with it."""
    hashes = [leaf_hash(entry) for entry in entries]
    if page.first != edge.size or page.size != edge.size + len(entries):
        return edge, f"leaves {page.first} to {page.size} are not the {len(entries)} that come next"
    grown = edge.grown(hashes)
    if page.hashes != b"".join(hashes):
        return grown, "its hashes are not those of its leaves"
    if (page.edge, page.root) != (grown.encode(), grown.root()):
        return grown, "its root is not that of the leaves"
    return grown, None
