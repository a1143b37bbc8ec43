"""The log in PostgreSQL: what moved credit or judgement, in the order in which it happened.

A transaction adds its leaves as one page: one row with the entries, their hashes and the tree as
it stands then. Whoever writes holds the settle lock, so the order of settlement, of balances and
of the log is one. Rows M21, C7, C8.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from ledger.db import SETTLE_LOCK, batch, one, query, scan
from ledger.params import in_force, params_of, spelled_out, tau_ppm_of
from ledger.proof import entries
from ledger.proof.merkle import EMPTY_EDGE, HASH_BYTES, Edge, leaf_hash
from ledger.proof.tiles import WIDTH, encode_bundle

OPENED_MAX = 4096  # older accounts in one page: what is in memory when a log begins


@dataclass(frozen=True, kw_only=True, slots=True)
class Head:
    """Where the log stands. tail: hashes of the leaves after the last complete tile. transaction:
    the id that the next transaction gets."""

    size: int
    epoch: int
    edge: Edge
    tail: Sequence[bytes]
    transaction: int


class Page:
    """What one transaction adds to the log. Leaves and transactions get their numbers as they come.

    Holds as long as the settle lock: from `open_page` or `head_of` to the end of the transaction.
    """

    def __init__(self, head: Head, now: datetime) -> None:
        self.epoch = head.epoch
        self.now = now
        self.at = entries.stamp(now)
        self._head = head
        self._entries: list[bytes] = []
        self._transaction = head.transaction

    def add(self, *leaves: bytes) -> int:
        """Append leaves; returns the index of the first."""
        index = self._head.size + len(self._entries)
        self._entries += leaves
        return index

    def transactions(self, count: int) -> range:
        """The ids of that many transactions."""
        first = self._transaction
        self._transaction += count
        return range(first, self._transaction)

    def write(self, connection: Connection) -> Head:
        """Write the page and the tiles that it completes; where the log stands then.

        Nothing is written when nothing was added.
        """
        head = self._head
        if not self._entries:
            return head
        hashes = [leaf_hash(entry) for entry in self._entries]
        edge = head.edge.grown(hashes)
        query(connection, "log_append", {
            "first": head.size,
            "size": edge.size,
            "epoch": head.epoch,
            "at": self.now,
            "entries": encode_bundle(self._entries),
            "hashes": b"".join(hashes),
            "edge": edge.encode(),
            "root": edge.root(),
        })  # fmt: skip
        tail = [*head.tail, *hashes]
        whole = len(tail) // WIDTH * WIDTH
        if whole:
            _write_tiles(connection, 0, (edge.size - len(tail)) // WIDTH, tail[:whole])
        return Head(
            size=edge.size,
            epoch=head.epoch,
            edge=edge,
            tail=tail[whole:],
            transaction=self._transaction,
        )


def open_page(connection: Connection, now: datetime) -> Page:
    """Take the settle lock and begin a page."""
    with batch(connection):
        query(connection, "settle_lock", {"lock": SETTLE_LOCK})
        row = query(connection, "log_head")
    return page_of(connection, one(row), now)


def page_of(connection: Connection, row: Any, now: datetime) -> Page:
    """A page at the head that `log_head` read under the settle lock; a log that has not begun
    begins with the parameters and accounts that there are."""
    page = Page(_head(row), now)
    return page if row.size else _begun(connection, page)


def _head(row: Any) -> Head:
    tail = bytes(row.tail)
    kept = row.size % WIDTH * HASH_BYTES
    tail = tail[len(tail) - kept :]  # its first page may have begun in the tile before
    return Head(
        size=row.size,
        epoch=row.epoch,
        edge=Edge.decode(row.size, bytes(row.edge)),
        tail=[tail[start : start + HASH_BYTES] for start in range(0, kept, HASH_BYTES)],
        transaction=row.transaction,
    )


def _begun(connection: Connection, page: Page) -> Page:
    query(connection, "epoch_begin", {"now": page.now})
    _keep_params(connection)
    page.add(entries.params(epoch=page.epoch, at=page.at, values=in_force(connection)))
    older = scan(connection, "log_begin")
    for number, (account, quota_ub, balance_ub, opened_at, settled) in enumerate(older, 1):
        page.add(
            entries.open_older(
                epoch=page.epoch,
                at=entries.stamp(opened_at),
                account=account,
                quota_ub=quota_ub,
                balance_ub=balance_ub,
                settled=settled,
            )
        )
        if number % OPENED_MAX == 0:
            page = Page(page.write(connection), page.now)
    return page


def _keep_params(connection: Connection) -> None:
    """Store what moves credit, so that it changes only where the log says so."""
    params = params_of(connection)
    kept = {
        "tau_ppm": tau_ppm_of(params),
        "clearing": spelled_out("clearing", params.get("clearing", {})),
    }
    for name, value in kept.items():
        query(connection, "put_param", {"name": name, "value": json.dumps(value)})


def _write_tiles(connection: Connection, level: int, number: int, hashes: Sequence[bytes]) -> None:
    """Tiles of a level from `number` on, and those above that they complete."""
    tiles = [hashes[start : start + WIDTH] for start in range(0, len(hashes), WIDTH)]
    roots = [EMPTY_EDGE.grown(tile).root() for tile in tiles]
    query(connection, "log_tiles", {
        "level": level,
        "first": number,
        "hashes": [b"".join(tile) for tile in tiles],
        "roots": roots,
    })  # fmt: skip
    open_from = number // WIDTH * WIDTH  # of the tile above that is not complete yet
    end = number + len(tiles)
    if end // WIDTH > number // WIDTH:
        before = query(
            connection, "log_tile_roots", {"level": level, "first": open_from, "end": number}
        )
        above = [*(bytes(row.root) for row in before), *roots]
        whole = len(above) // WIDTH * WIDTH
        _write_tiles(connection, level + 1, open_from // WIDTH, above[:whole])
