"""Lanes: who may use a shared resource, one holder at a time, each under a token of its own.

The token is the fencing token: it grows by one at every change of holder and is written here, so
that a wiped Redis cannot reset it. A new holder begins when nothing of the one before is in flight;
from then on nothing of the one before is accepted. Rows M02, M03; invariant C6.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Engine

from ledger.db import (
    CLAIM_LOCK,
    READY,
    SETTLE_LOCK,
    batch,
    dicts,
    notify,
    query,
    single,
    transaction,
)
from ledger.errors import Conflict, LaneLost, NotFound

SYSTEM = "system"
EVERYBODY = 0  # `serves`: the tasks of no batch
GRACE_S = 5.0  # after a lease has ended, before the lane returns to cron
CRON = "beat"  # the principal behind a lane that cron holds


class Mode(StrEnum):
    """What kind of holder a lane has."""

    CRON = "cron"
    MANUAL = "manual"
    PAUSED = "paused"


class Ended(StrEnum):
    """How a tenure ended."""

    TAKEN = "taken"  # cron made room for a person
    RELEASED = "released"  # its holder gave it back
    EXPIRED = "expired"  # its holder let the lease end
    REVOKED = "revoked"  # somebody else ended it
    WITHDRAWN = "withdrawn"  # it was given back before it began


@dataclass(frozen=True, kw_only=True, slots=True)
class Lane:
    """A lane as it stands.

    serves: whose tasks may be claimed (0 those of no batch, else those of this batch), None
    nobody's. until: when a manual lease ends. in_flight: claims that have not ended, of this
    holder once it began, of the one before as long as these drain.
    """

    lane: str
    token: int
    floor: int
    mode: Mode
    principal: str
    reason: str
    serves: int | None
    since: datetime
    granted_at: datetime | None
    until: datetime | None
    in_flight: int

    @property
    def drained(self) -> bool:
        """Whether the holder may work: nothing of the one before is accepted any more."""
        return self.floor == self.token

    def lapsed(self, now: datetime) -> bool:
        """Whether its holder has let the lease end, grace included."""
        return self.until is not None and self.until + timedelta(seconds=GRACE_S) <= now


@dataclass(frozen=True, kw_only=True, slots=True)
class Ask:
    """Who wants a lane, why, for which batch (None: for work outside Clearlane), how long."""

    principal: str
    reason: str
    serves: int | None = None
    lease_s: float = 30.0


def lanes(engine: Engine, now: datetime, names: Sequence[str] | None = None) -> list[Lane]:
    """Lanes by name; of those named the ones that exist."""
    with single(engine) as connection:
        return _read(connection, now, names)


def lane(engine: Engine, name: str, now: datetime) -> Lane:
    """One lane. Raises NotFound."""
    found = lanes(engine, now, [name])
    if not found:
        raise _unknown(name)
    return found[0]


def take(engine: Engine, name: str, ask: Ask, now: datetime) -> Lane:
    """Make a person the holder; it may work once the lane is `drained` (see `grant`).

    Raises NotFound, or Conflict when somebody else holds it, naming them.
    """
    with transaction(engine) as connection:
        return take_within(connection, name, ask, now)


def take_within(connection: Connection, name: str, ask: Ask, now: datetime) -> Lane:
    """`take`, as part of a transaction."""
    _refuse_system(name)
    found = _locked(connection, name, now)
    if found.mode is not Mode.CRON and not found.lapsed(now):
        raise _held(found)
    values = {
        "mode": Mode.MANUAL,
        "principal": ask.principal,
        "reason": ask.reason,
        "serves": ask.serves,
        "until": now + timedelta(seconds=ask.lease_s),
        "ended": Ended.TAKEN if found.mode is Mode.CRON else Ended.EXPIRED,
    }
    return _change(connection, found, now, values)


def pause(engine: Engine, name: str, ask: Ask, now: datetime) -> Lane:
    """Nobody works in a lane until it is released. Raises NotFound, Conflict when it is held."""
    _refuse_system(name)
    with transaction(engine) as connection:
        found = _locked(connection, name, now)
        if found.mode is not Mode.CRON:
            raise _held(found)
        return _change(
            connection,
            found,
            now,
            {
                "mode": Mode.PAUSED,
                "principal": ask.principal,
                "reason": ask.reason,
                "serves": None,
                "until": None,
                "ended": Ended.TAKEN,
            },
        )


def grant(engine: Engine, name: str, token: int, now: datetime, *, force: bool = False) -> Lane:
    """Let the holder begin if nothing of the one before is in flight; `force`: even so, and what
    is in flight is refused at its settlement.

    The lane as it stands then; look at `drained`. Raises LaneLost when it has another holder.
    """
    with transaction(engine) as connection:
        found = _owned(connection, name, token, now)
        if found.drained or (found.in_flight and not force):
            return found
        query(connection, "grant_lane", {"lane": name, "token": token, "now": now})
        notify(connection, READY)
        return _read(connection, now, [name])[0]


def renew(engine: Engine, name: str, token: int, until: datetime, now: datetime) -> None:
    """A longer lease. Raises LaneLost when it has ended, or the lane has another holder."""
    with single(engine) as connection:
        values = {"lane": name, "token": token, "until": until, "now": now}
        if query(connection, "renew_lane", values).fetchone() is None:
            raise _lost(connection, name, token, now)


def release(
    engine: Engine,
    name: str,
    token: int,
    now: datetime,
    *,
    ended: Ended = Ended.RELEASED,
    force: bool = False,
) -> Lane:
    """Give a lane back to cron, which begins when the holder's work has ended; `force`: at once.

    Raises NotFound, LaneLost when it has another holder.
    """
    with transaction(engine) as connection:
        found = _owned(connection, name, token, now)
        how = ended if found.drained else Ended.WITHDRAWN
        return _to_cron(connection, found, now, how, force=force)


def settle_down(engine: Engine, now: datetime) -> list[Lane]:
    """Lanes whose holder is gone return to cron; who waits for a drain that is over may begin.

    Returns the lanes that changed.
    """
    names = [
        item.lane
        for item in lanes(engine, now)
        if item.lapsed(now) or (not item.drained and not item.in_flight)
    ]
    changed: list[Lane] = []
    for name in names:
        with transaction(engine) as connection:
            found = _locked(connection, name, now)
            if found.lapsed(now):
                changed.append(_to_cron(connection, found, now, Ended.EXPIRED))
            elif not found.drained and not found.in_flight:
                values = {"lane": name, "token": found.token, "now": now}
                query(connection, "grant_lane", values)
                notify(connection, READY)
                changed += _read(connection, now, [name])
    return changed


def set_back(engine: Engine, *, ahead_s: float, now: datetime) -> None:
    """Let no lane wait for the end of a lease that a clock further ahead than this has begun."""
    with single(engine) as connection:
        query(connection, "lanes_set_back", {"ahead_s": ahead_s, "now": now})


def history(
    engine: Engine, name: str | None = None, *, limit: int = 100, before: int | None = None
) -> list[dict[str, Any]]:
    """Tenures, newest first, as rows of `lane_history.sql`; of one lane those before a token."""
    values = {"lane": name, "limit": limit, "before": before}
    with single(engine) as connection:
        return dicts(query(connection, "lane_history", values))


def add_lanes(connection: Connection, names: Sequence[str]) -> list[str]:
    """Make lanes that do not exist yet, held by cron; returns their names."""
    return [row.id for row in query(connection, "add_lanes", {"names": sorted(set(names))})]


def require_holder(connection: Connection, name: str, token: int, now: datetime) -> None:
    """For a transaction that acts for a holder: it fails with LaneLost unless that still holds
    the lane and may work, and nobody takes the lane before it ends."""
    row = query(connection, "lane_holder", {"lane": name, "token": token, "now": now}).fetchone()
    if row is None:
        raise _lost(connection, name, token, now)


def _to_cron(
    connection: Connection, found: Lane, now: datetime, ended: Ended, *, force: bool = False
) -> Lane:
    values = {
        "mode": Mode.CRON,
        "principal": CRON,
        "reason": "",
        "serves": EVERYBODY,
        "until": None,
        "ended": ended,
    }
    return _change(connection, found, now, values, force=force)


def _change(
    connection: Connection,
    found: Lane,
    now: datetime,
    values: dict[str, Any],
    *,
    force: bool = False,
) -> Lane:
    granted = force or not found.in_flight
    values |= {"lane": found.lane, "token": found.token, "granted": granted, "now": now}
    query(connection, "change_lane", values)
    notify(connection, READY)
    return _read(connection, now, [found.lane])[0]


def _locked(connection: Connection, name: str, now: datetime) -> Lane:
    """A lane that nobody else changes, claims from or settles in until the transaction ends."""
    with batch(connection):
        query(connection, "lane_locks", {"claim": CLAIM_LOCK, "settle": SETTLE_LOCK})
        rows = query(connection, "lanes", {"names": [name], "now": now})
    found = [_lane(row) for row in rows]
    if not found:
        raise _unknown(name)
    return found[0]


def _owned(connection: Connection, name: str, token: int, now: datetime) -> Lane:
    found = _locked(connection, name, now)
    if found.token != token:
        raise _lost(connection, name, token, now)
    return found


def _read(connection: Connection, now: datetime, names: Sequence[str] | None) -> list[Lane]:
    values = {"names": None if names is None else list(names), "now": now}
    return [_lane(row) for row in query(connection, "lanes", values)]


def _lane(row: Any) -> Lane:
    return Lane(**row._asdict() | {"mode": Mode(row.mode)})


def _unknown(name: str) -> NotFound:
    return NotFound("lane", f"{name!r} is not known", "see `clearlane lanes list`")


def _refuse_system(name: str) -> None:
    if name == SYSTEM:
        raise Conflict("lane", f"{name} is never given away", "its jobs keep everything else going")


def _held(found: Lane) -> Conflict:
    why = f", because: {found.reason}" if found.reason else ""
    return Conflict(
        "lane",
        f"{found.lane} is {'paused' if found.mode is Mode.PAUSED else 'held'} by {found.principal}"
        f" since {found.since:%Y-%m-%d %H:%M:%S} UTC{why}",
        f"wait for its release, or ask {found.principal} for it",
    )


def _lost(connection: Connection, name: str, token: int, now: datetime) -> LaneLost:
    found = _read(connection, now, [name])
    if not found:
        return LaneLost(name, f"token {token} belongs to no lane of this name")
    if found[0].token == token:
        return LaneLost(name, f"the lease of token {token} has ended")
    return LaneLost(name, f"token {token} is no longer valid: {found[0].principal} holds the lane")
