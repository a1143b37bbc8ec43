"""The intake: a task is accepted when its row is committed, and not before.

All of a list is accepted or none of it. Using an idempotency key again with the same content
returns the task of the first time; with other content it is a conflict. Rows M04, C10.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Engine

from ledger.db import READY, batch, dicts, notify, notify_ended, query, report, single, transaction
from ledger.errors import BadInput, Conflict, NotFound
from ledger.lanes import require_holder
from ledger.model import LANE_DEFAULT, AttemptKey, Json
from ledger.postings import client_account

PAYLOAD_MAX_BYTES = 1 << 20
SIZE_MAX = 1_000_000  # tokens
TYPE_DEFAULT = "work"
KNOWN_MAX = 1000  # keys looked up together
ENCODED_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")  # in JSON text; not an escaped backslash
SHORT = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff]{1,255}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Submission:
    """One task as asked for. `size` None takes the family's; `expires_at` None never expires."""

    family: str
    payload: Json
    size: int | None = None
    type: str = TYPE_DEFAULT
    expires_at: datetime | None = None
    idempotency_key: str | None = None
    lane: str = LANE_DEFAULT


@dataclass(frozen=True, kw_only=True, slots=True)
class Tenure:
    """On whose behalf tasks are submitted: the batch, and the holder's token of its lane."""

    lane: str
    token: int
    batch: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """Where tasks come from: a client, or an agent that works on `parent` (row M23).

    payer: the account that pays. ready_at: their place in the line. chain: the agents that wait
    for them, the payer's last. budget_ub: what all subtasks of the parent's attempt may cost.
    """

    payer: str
    ready_at: datetime
    client: str | None = None
    batch: int = 0
    parent: AttemptKey | None = None
    chain: Sequence[str] | None = None
    budget_ub: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Accepted:
    """A task in the ledger. `created` is False when its idempotency key was known; `batch` is then
    the one it belonged to, 0 for none."""

    task: str
    state: str
    created: bool
    batch: int = 0


def submit(
    engine: Engine,
    client: str,
    submissions: Sequence[Submission],
    now: datetime,
    tenure: Tenure | None = None,
) -> list[Accepted]:
    """Accept all tasks, durably, in the order given.

    With a tenure they belong to its batch, and those that an earlier batch left unfinished come
    into this one; raises LaneLost when the lane has another holder by now.
    Raises NotFound for an unknown client, family or lane, BadInput for a size or payload out of
    bounds, Conflict for an idempotency key used with other content, Unavailable when PostgreSQL
    is away. In each case nothing was accepted.
    """
    if not submissions:
        return []
    origin = Origin(
        payer=client_account(client),
        ready_at=now,
        client=client,
        batch=tenure.batch if tenure else 0,
    )
    with transaction(engine) as connection:
        if tenure is not None:
            require_holder(connection, tenure.lane, tenure.token, now)
        accepted = add(connection, origin, submissions, now)
        left = [item.task for item in accepted if not item.created and item.state == "INIT"]
        if tenure is not None and left:
            query(connection, "adopt", {"ids": left, "batch": tenure.batch})
    return accepted


def add(
    connection: Connection, origin: Origin, submissions: Sequence[Submission], now: datetime
) -> list[Accepted]:
    """`submit`, as part of a transaction, for whoever pays; not for none."""
    ids = new_ids(len(submissions), now)
    rows = [_row(task, item, origin.parent) for task, item in zip(ids, submissions, strict=True)]
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    clients = [] if origin.client is None else [origin.client]
    names = sorted({item.family for item in submissions})
    lanes = sorted({item.lane for item in submissions})
    with batch(connection):
        found_clients = query(connection, "clients", {"names": clients})
        families = query(connection, "families", {"names": names})
        found_lanes = query(connection, "lane_names", {"names": lanes})
        added = query(connection, "submit", columns | _origin(origin) | {"now": now})
        notify(connection, READY)
    _require("client", clients, found_clients, "see `clearlane ledger balances`")
    _require("family", names, families, "add it to the configuration file")
    _require("lane", lanes, found_lanes, "see `clearlane lanes list`")
    created = {str(row.id) for row in added}
    known = _known(connection, origin.payer, [row for row in rows if row["ids"] not in created])
    return [
        Accepted(task=row["ids"], state="INIT", created=True)
        if row["ids"] in created
        else known[row["keys"]]
        for row in rows
    ]


def known(
    engine: Engine, client: str, submissions: Sequence[Submission]
) -> dict[str, Accepted | Conflict]:
    """What these would find, by idempotency key: tasks that exist, and keys used otherwise.

    Raises NotFound for an unknown client or lane, BadInput as `submit`.
    """
    rows = [_row("", item) for item in submissions if item.idempotency_key is not None]
    lanes = sorted({item.lane for item in submissions})
    found: dict[str, Accepted | Conflict] = {}
    with single(engine) as connection:
        clients = query(connection, "clients", {"names": [client]})
        _require("client", [client], clients, "see `clearlane ledger balances`")
        _require(
            "lane",
            lanes,
            query(connection, "lane_names", {"names": lanes}),
            "see `clearlane lanes list`",
        )
        for start in range(0, len(rows), KNOWN_MAX):
            page = rows[start : start + KNOWN_MAX]
            found |= _before(connection, client_account(client), page)
    return found


def again(
    engine: Engine, payer: str, parent: AttemptKey, submissions: Sequence[Submission]
) -> list[Accepted] | None:
    """The subtasks that these made before, whatever has become of their parent; None unless they
    made all of them. Raises Conflict, BadInput."""
    rows = [_row("", item, parent) for item in submissions]
    with single(engine) as connection:
        known = _known(connection, payer, [row for row in rows if row["keys"] is not None])
    found = [known[row["keys"]] for row in rows if row["keys"] in known]
    return found if len(found) == len(rows) else None


def cancel(engine: Engine, task: str, now: datetime) -> None:
    """End a task that has not ended. Raises NotFound, or Conflict when it ended otherwise."""
    task = checked_id(task)
    with transaction(engine) as connection:
        if query(connection, "cancel", {"id": task, "now": now}).fetchone():
            notify_ended(connection, [task])
            return
        row = query(connection, "task", {"ids": [task]}).fetchone()
    if row is None:
        raise _unknown_task(task)
    if row.state != "CANCELLED":
        raise Conflict("task", f"{task} is {row.state}", "only a task in INIT can be cancelled")


def task_rows(engine: Engine, tasks: Sequence[str]) -> dict[str, Any]:
    """Tasks with their results, by id; unknown ids are left out."""
    with single(engine) as connection:
        rows = dicts(query(connection, "task", {"ids": [checked_id(task) for task in tasks]}))
    return {str(row["id"]): row for row in rows}


def task_row(engine: Engine, task: str) -> dict[str, Any]:
    """One task with its attempts (`attempts`, oldest first). Raises NotFound."""
    task = checked_id(task)
    found: dict[str, Any] | None = task_rows(engine, [task]).get(task)
    if found is None:
        raise _unknown_task(task)
    with single(engine) as connection:
        found["attempts"] = dicts(query(connection, "attempts", {"id": task}))
    return found


def task_list(
    engine: Engine,
    *,
    client: str | None = None,
    payer: str | None = None,
    state: str | None = None,
    before: str | None = None,
    limit: int = 100,
) -> list[dict[str, Any]]:
    """The newest tasks; pass the last one's id as `before` for the next page."""
    with single(engine) as connection:
        rows = query(
            connection,
            "task_list",
            {
                "client": client,
                "payer": payer,
                "state": state,
                "before": checked_id(before) if before else None,
                "limit": limit,
            },
        )
    return dicts(rows)


def task_counts(engine: Engine) -> list[dict[str, Any]]:
    """How many tasks stand in each state, waiting ones by reason."""
    with report(engine) as connection:
        return dicts(query(connection, "task_counts"))


def checked_id(task: str) -> str:
    """The canonical form of a task id. Raises BadInput when it is none."""
    try:
        return str(uuid.UUID(task))
    except ValueError:
        raise BadInput("task", f"{task!r} is not a task id", "see `clearlane task list`") from None


def new_ids(count: int, now: datetime) -> list[str]:
    """UUIDs of version 7 in growing order: neighbours in every index, dispatched in this order."""
    start_ms = int(now.timestamp() * 1000)
    found = []
    for number in range(count):
        ms, sequence = start_ms + (number >> 12), number & 0xFFF
        low = int.from_bytes(os.urandom(8)) & (1 << 62) - 1
        found.append(str(uuid.UUID(int=ms << 80 | 0x7 << 76 | sequence << 64 | 0b10 << 62 | low)))
    return found


def _require(field: str, names: Sequence[str], rows: Iterable[Any], remedy: str) -> None:
    found = {row.id for row in rows}
    for name in names:
        if name not in found:
            raise NotFound(field, f"{name!r} is not known", remedy)


def _origin(origin: Origin) -> dict[str, Any]:
    """Its part of what `submit` binds."""
    parent = origin.parent
    return {
        "client": origin.client,
        "ready_at": origin.ready_at,
        "batch": origin.batch,
        "parent": None if parent is None else parent.task,
        "parent_attempt": None if parent is None else parent.attempt,
        "chain": None if origin.chain is None else list(origin.chain),
        "budget_ub": origin.budget_ub,
    }


def _row(task: str, item: Submission, parent: AttemptKey | None = None) -> dict[str, Any]:
    if item.size is not None and not 0 < item.size <= SIZE_MAX:
        raise BadInput("size", f"{item.size} is not possible", f"use 1 to {SIZE_MAX} tokens")
    try:
        payload = json.dumps(item.payload, separators=(",", ":"), allow_nan=False)
        # The size as asked: the same request stays the same when the family changes its default.
        asked = [item.family, item.type, item.size, item.payload]
        # What was asked before there were lanes stays the same request.
        asked += [item.lane] if item.lane != LANE_DEFAULT else []
        asked += [] if parent is None else [list(parent)]
        content = json.dumps(asked, sort_keys=True)
    except (ValueError, TypeError, RecursionError) as error:
        raise BadInput("payload", str(error), "send plain JSON") from None
    if len(payload.encode()) > PAYLOAD_MAX_BYTES:
        raise BadInput(
            "payload",
            f"{len(payload.encode())} bytes are too many",
            f"send {PAYLOAD_MAX_BYTES} bytes at most, or a reference to the data",
        )
    if ENCODED_NUL.search(payload):
        raise BadInput("payload", "it holds a NUL character", "remove it")
    for name, value in (("type", item.type), ("idempotency_key", item.idempotency_key)):
        if value is not None and not SHORT.fullmatch(value):
            raise BadInput(
                name, "it is empty, long or not printable", "use 1 to 255 printable characters"
            )
    return {
        "ids": task,
        "families": item.family,
        "types": item.type,
        "sizes": item.size,
        "expires": item.expires_at,
        "keys": item.idempotency_key,
        "lanes": item.lane,
        "hashes": hashlib.sha256(content.encode()).digest(),
        "payloads": payload,
    }


def _known(
    connection: Connection, payer: str, rows: Sequence[dict[str, Any]]
) -> dict[str, Accepted]:
    """What earlier submissions made of these idempotency keys. Raises Conflict."""
    found = _before(connection, payer, rows)
    for item in found.values():
        if isinstance(item, Conflict):
            raise item
    return {key: item for key, item in found.items() if isinstance(item, Accepted)}


def _before(
    connection: Connection, payer: str, rows: Sequence[dict[str, Any]]
) -> dict[str, Accepted | Conflict]:
    """By idempotency key, the task that has it, or the refusal because it is another task."""
    if not rows:
        return {}
    keys = [row["keys"] for row in rows]
    before = query(connection, "submitted_before", {"payer": payer, "keys": keys})
    hashes = {row["keys"]: row["hashes"] for row in rows}
    return {
        row.idempotency_key: Accepted(
            task=str(row.id), state=row.state, created=False, batch=row.batch
        )
        if bytes(row.content_sha256) == hashes[row.idempotency_key]
        else Conflict(
            "idempotency_key",
            f"{row.idempotency_key!r} was used for another task ({row.id})",
            "use a new key for new content",
        )
        for row in before
    }


def _unknown_task(task: str) -> NotFound:
    return NotFound("task", f"{task} is not known", "see `clearlane task list`")
