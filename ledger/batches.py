"""Batches: the items of a file, as tasks under one holder's token. Rows M02, M03.

A batch and its hold of the lane begin in one transaction: there is no batch that nobody runs and
no lane that serves a batch which does not exist. Its items are tasks like any other; what is not
settled when it ends waits under its id until it goes on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Engine

from ledger.db import one, query, single, transaction
from ledger.errors import NotFound
from ledger.lanes import Ask, Lane, take_within
from ledger.model import Json

NOBODY = 0  # the token of whoever says how a batch ended that nobody runs


class BatchEnd(StrEnum):
    """How a batch ended; without an end it runs, or its command died."""

    DONE = "done"  # nothing of it waits
    STOPPED = "stopped"  # by whoever ran it
    LOST = "lost"  # somebody else got the lane


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """A batch to be: where its items come from. `options` say what the file's lines need not."""

    lane: str
    client: str
    principal: str
    reason: str
    file: str
    file_sha256: bytes
    options: Mapping[str, Json]
    items: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept(Batch):
    """A batch as it is kept. `running`: its lane is held for it now."""

    id: int
    began_at: datetime
    ended_at: datetime | None
    ended: BatchEnd | None
    running: bool

    @property
    def state(self) -> str:
        """`running`, how it ended, or `died`: whoever ran it said nothing."""
        if self.ended is not None:
            return self.ended
        return "running" if self.running else "died"


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """How a batch's tasks stand, and what they have cost."""

    waiting: int = 0
    in_flight: int = 0
    committed: int = 0
    quarantined: int = 0
    cancelled: int = 0
    expired: int = 0
    spent_ub: int = 0

    @property
    def failed(self) -> int:
        """Those that ended unpaid."""
        return self.quarantined + self.cancelled + self.expired

    @property
    def left(self) -> int:
        """Those that have not ended."""
        return self.waiting + self.in_flight


def begin(engine: Engine, wanted: Batch, lease_s: float, now: datetime) -> tuple[int, Lane]:
    """A new batch and the lane taken for it; raises NotFound, or Conflict when it is held."""
    values = {
        "lane": wanted.lane,
        "client": wanted.client,
        "principal": wanted.principal,
        "reason": wanted.reason,
        "file": wanted.file,
        "sha256": wanted.file_sha256,
        "options": json.dumps(wanted.options),
        "items": wanted.items,
        "now": now,
    }
    with transaction(engine) as connection:
        number = one(query(connection, "batch_add", values)).id
        ask = Ask(principal=wanted.principal, reason=wanted.reason, serves=number, lease_s=lease_s)
        return number, take_within(connection, wanted.lane, ask, now)


def again(engine: Engine, number: int, ask: Ask, file: str, now: datetime) -> Lane:
    """The lane taken once more for a batch. Raises NotFound, or Conflict when it is held."""
    values = {"id": number, "principal": ask.principal, "reason": ask.reason, "file": file}
    with transaction(engine) as connection:
        row = query(connection, "batch_again", values).fetchone()
        if row is None:
            raise unknown(number)
        return take_within(connection, row.lane, ask, now)


def end(engine: Engine, number: int, token: int, ended: BatchEnd, now: datetime) -> None:
    """Say how a batch that ran under this token ended; one that has ended, or goes on under a newer
    token, stays as it is."""
    values = {"id": number, "token": token, "ended": ended, "now": now}
    with single(engine) as connection:
        query(connection, "batch_end", values)


def batches(engine: Engine, *, limit: int = 100) -> list[Kept]:
    """The newest batches first."""
    with single(engine) as connection:
        rows = query(connection, "batch_list", {"id": None, "limit": limit})
        return [_kept(row) for row in rows]


def batch(engine: Engine, number: int) -> Kept:
    """One batch. Raises NotFound."""
    with single(engine) as connection:
        row = query(connection, "batch_list", {"id": number, "limit": 1}).fetchone()
    if row is None:
        raise unknown(number)
    return _kept(row)


def counts(engine: Engine, number: int) -> Counts:
    """How its tasks stand."""
    found = dict.fromkeys(Counts.__dataclass_fields__, 0)
    with single(engine) as connection:
        for row in query(connection, "batch_counts", {"id": number}):
            name = "in_flight" if row.in_flight else _NAMES.get(row.state, row.state.lower())
            found[name] += row.tasks
            found["spent_ub"] += row.spent_ub
    return Counts(**found)


def unknown(number: int) -> NotFound:
    """The refusal of a batch that does not exist."""
    return NotFound("batch", f"{number} is not known", "see `clearlane batch status`")


_NAMES = {"INIT": "waiting"}


def _kept(row: Any) -> Kept:
    values = row._asdict()
    values["file_sha256"] = bytes(row.file_sha256)
    values["ended"] = BatchEnd(row.ended) if row.ended is not None else None
    values["running"] = bool(row.running)
    return Kept(**values)
