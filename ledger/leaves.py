"""Reading the log: entries, tiles, proofs. What is served and what receipts are made of. Row M21.

Nothing here is trusted by whoever reads it: a proof is as good as the root it is checked against.
"""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Connection, Engine

from ledger.db import one, query, single
from ledger.errors import BadInput, NotFound
from ledger.proof.merkle import HASH_BYTES, Node
from ledger.proof.tiles import (
    WIDTH,
    Bundle,
    Hashes,
    Tile,
    decode_bundle,
    encode_bundle,
)

PAGES_MAX = 100  # read in one statement


def size(engine: Engine) -> tuple[int, bytes]:
    """How many leaves there are, and the root of their tree."""
    with single(engine) as connection:
        row = one(query(connection, "log_size"))
    return row.size, bytes(row.root)


def tile(engine: Engine, wanted: Tile) -> bytes:
    """The hashes of a tile. Raises NotFound when the log is not that long."""
    with single(engine) as connection:
        found = _whole(connection, wanted)
        if found is None:
            found = _hashes(connection, wanted) if wanted.level == 0 else _roots(connection, wanted)
    if len(found) < wanted.width * HASH_BYTES:
        raise NotFound("tile", "the log is not that long", "read the checkpoint first")
    return found[: wanted.width * HASH_BYTES]


def bundle(engine: Engine, wanted: Bundle) -> bytes:
    """The entries of a bundle, each behind its length. Raises NotFound."""
    first = wanted.number * WIDTH
    found = list(entries(engine, first, first + wanted.width))
    if len(found) < wanted.width:
        raise NotFound("bundle", "the log is not that long", "read the checkpoint first")
    return encode_bundle(found)


def entry(engine: Engine, index: int) -> bytes:
    """One leaf's bytes. Raises NotFound."""
    found = list(entries(engine, index, index + 1))
    if not found:
        raise no_leaf(index, size(engine)[0])
    return found[0]


def no_leaf(index: int, size: int) -> NotFound:
    """The refusal of a leaf that a log of `size` leaves does not have."""
    remedy = f"use 0 to {size - 1}" if size else "it is empty: `clearlane apply` begins it"
    return NotFound("index", f"the log has no leaf {index}", remedy)


def entries(engine: Engine, first: int, end: int) -> Iterator[bytes]:
    """The leaves from `first` up to `end`, as many as there are, in order."""
    while first < end:
        values = {"first": first, "end": end, "limit": PAGES_MAX}
        with single(engine) as connection:
            pages = query(connection, "log_pages", values).fetchall()
        if not pages:
            return
        for page in pages:
            yield from decode_bundle(bytes(page.entries))[first - page.first : end - page.first]
            first = page.size


def nodes(engine: Engine, size: int) -> Node:
    """Reads the nodes of a tree of `size` leaves, each tile once."""
    return Hashes(lambda wanted: tile(engine, wanted), size)


def leaf_of(engine: Engine, task: str) -> int:
    """Where a task's settlement stands in the log. Raises NotFound for a task that is not known, or
    not settled; BadInput for one that was settled before there was a log."""
    with single(engine) as connection:
        row = one(query(connection, "log_leaf", {"task": task}))
    if not row.settled and row.state is None:
        raise NotFound("task", f"{task} is not known", "see `clearlane task list`")
    if not row.settled:
        remedy = "ask when it is COMMITTED" if row.state == "INIT" else "it never will be"
        raise NotFound("task", f"{task} is {row.state}, not settled", remedy)
    if row.leaf is None:
        raise BadInput("task", f"{task} was settled before there was a log", "take a later one")
    return int(row.leaf)


def _whole(connection: Connection, wanted: Tile) -> bytes | None:
    values = {"level": wanted.level, "number": wanted.number}
    row = query(connection, "log_tile", values).fetchone()
    return None if row is None else bytes(row.hashes)


def _hashes(connection: Connection, wanted: Tile) -> bytes:
    """Of the last tile of leaves, which is still open."""
    first = wanted.number * WIDTH
    rows = query(connection, "log_hashes", {"first": first, "end": first + WIDTH}).fetchall()
    if not rows:
        return b""
    return b"".join(bytes(row.hashes) for row in rows)[(first - rows[0].first) * HASH_BYTES :]


def _roots(connection: Connection, wanted: Tile) -> bytes:
    """Of the last tile of a level above: the roots of the complete tiles below."""
    first = wanted.number * WIDTH
    values = {"level": wanted.level - 1, "first": first, "end": first + WIDTH}
    return b"".join(bytes(row.root) for row in query(connection, "log_tile_roots", values))
