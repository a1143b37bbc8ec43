"""The cron table's memory: what is known of each job, and what became of each slot.

A slot is a row, so it fires once, whoever comes and however often. A run begins under the lock that
also covers claims, so whoever gives a lane away sees it as work in flight. Row M01.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple

from sqlalchemy import Engine

from ledger.db import CLAIM_LOCK, batch, dicts, query, single, transaction
from ledger.errors import Conflict
from ledger.lanes import SYSTEM, Mode, add_lanes

DOUBT_S = 30.0  # further ahead than this, and a clock was wrong
OFTEN_KEPT_S = 3600.0  # runs of jobs that run more than once a minute
FAILED_KEPT_S = 7 * 86_400.0  # of these, those that failed or were missed
KEPT_S = 90 * 86_400.0


class RunState(StrEnum):
    """How a slot stands."""

    FIRED = "fired"  # recorded, and waits for its turn
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"  # its policy had it so: its lane was held, or its turn came too late
    MISSED = "missed"  # nobody was there in time


@dataclass(frozen=True, kw_only=True, slots=True)
class Board:
    """How a lane and its jobs stand: up to where slots are recorded, and which wait their turn.

    held_by: who has taken the lane from cron; empty when it is cron's. schedules: of the jobs that
    are known. waits: whether anything is there that could begin.
    """

    exists: bool
    held_by: str
    seen: Mapping[str, datetime]
    schedules: Mapping[str, str]
    waiting: Mapping[str, Sequence[datetime]]
    waits: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Slot:
    """A slot to be recorded for the first time. slots: how many it stands for."""

    job: str
    slot: datetime
    state: str
    reason: str = ""
    slots: int = 1


class Run(NamedTuple):
    """A run: its job and its slot."""

    job: str
    slot: datetime


def board(engine: Engine, lane: str, jobs: Sequence[str]) -> Board:
    """How a lane and these jobs of it stand, in one round trip."""
    with single(engine) as connection, batch(connection):
        found = query(connection, "cron_lane", {"lane": lane})
        known = query(connection, "cron_jobs", {"jobs": list(jobs)})
        open_ = query(connection, "cron_open", {"jobs": list(jobs)})
        row, rows, waiting = found.fetchone(), known.fetchall(), open_.fetchall()
    return Board(
        exists=row is not None,
        held_by="" if row is None or row.mode == Mode.CRON else row.principal,
        seen={item.job: item.seen for item in rows},
        schedules={item.job: item.schedule for item in rows if item.lane == lane},
        waiting={item.job: item.slots for item in waiting},
        waits=any(item.waits for item in waiting),
    )


def know(engine: Engine, lane: str, schedules: Mapping[str, str], now: datetime) -> None:
    """Note jobs that are new, or have another schedule or lane: they are due from now on."""
    with transaction(engine) as connection:
        add_lanes(connection, [lane])
        values = {
            "lane": lane,
            "jobs": list(schedules),
            "schedules": list(schedules.values()),
            "now": now,
        }
        query(connection, "cron_know", values)


def record(
    engine: Engine,
    lane: str,
    slots: Sequence[Slot],
    drops: Mapping[Run, str],
    now: datetime,
) -> None:
    """Record slots, each once, and let go of runs that will not begin, saying why."""
    with transaction(engine) as connection:
        if slots:
            values = {
                "lane": lane,
                "jobs": [item.job for item in slots],
                "slots": [item.slot for item in slots],
                "states": [item.state for item in slots],
                "reasons": [item.reason for item in slots],
                "counts": [item.slots for item in slots],
                "now": now,
            }
            query(connection, "cron_record", values)
        if drops:
            values = {
                "jobs": [run.job for run in drops],
                "slots": [run.slot for run in drops],
                "reasons": list(drops.values()),
                "now": now,
            }
            query(connection, "cron_drop", values)


def start(engine: Engine, lane: str, limits_s: Mapping[str, float], now: datetime) -> Run | None:
    """Begin the first run in a lane whose turn it is, None if there is none or it may not begin.

    It may while the lane is cron's, or held under the very token the run was asked for with,
    nothing of the holder before is in flight and no other run of the lane is.
    """
    values = {
        "lane": lane,
        "jobs": list(limits_s),
        "limits": list(limits_s.values()),
        "doubt_s": DOUBT_S,
        "now": now,
    }
    with transaction(engine) as connection, batch(connection):
        if lane != SYSTEM:  # which is never given away: its jobs need not wait for claims
            query(connection, "hold_claims", {"claim": CLAIM_LOCK})
        query(connection, "cron_turn", values)
        query(connection, "cron_overdue", values)
        row = query(connection, "cron_start", values).fetchone()
    return None if row is None else Run(row.job, row.slot)


def end(engine: Engine, run: Run, *, failed: str | None, now: datetime) -> bool:
    """Say that a run is over, and with `failed` why it failed. False: it was given up before."""
    state = RunState.DONE if failed is None else RunState.FAILED
    values = {"job": run.job, "slot": run.slot, "state": state, "reason": failed or "", "now": now}
    with single(engine) as connection:
        return query(connection, "cron_end", values).fetchone() is not None


def ask(
    engine: Engine, job: str, lane: str, principal: str, now: datetime, *, fence: int = 0
) -> Run:
    """Have a job run now, its turn permitting; `fence`: under this token of the lane."""
    values = {"job": job, "lane": lane, "principal": principal, "fence": fence, "now": now}
    with single(engine) as connection:
        row = query(connection, "cron_by_hand", values).fetchone()
    if row is None:
        raise Conflict("job", f"{job} has a run at this very instant", "ask again")
    return Run(job, row.slot)


def withdraw(engine: Engine, run: Run, reason: str, now: datetime) -> None:
    """Let go of a run that has not begun."""
    with single(engine) as connection:
        values = {"jobs": [run.job], "slots": [run.slot], "reasons": [reason], "now": now}
        query(connection, "cron_drop", values)


def run_row(engine: Engine, run: Run) -> dict[str, Any] | None:
    """One run, as a row of `cron_run.sql`."""
    with single(engine) as connection:
        found = dicts(query(connection, "cron_run", {"job": run.job, "slot": run.slot}))
    return found[0] if found else None


def history(engine: Engine, job: str, *, limit: int = 100) -> list[dict[str, Any]]:
    """The runs of a job, newest slot first, as rows of `cron_history.sql`."""
    with single(engine) as connection:
        return dicts(query(connection, "cron_history", {"job": job, "limit": limit}))


def known(engine: Engine) -> dict[str, dict[str, Any]]:
    """Every job ever seen, as rows of `cron_jobs.sql`, by name."""
    with single(engine) as connection:
        return {row["job"]: row for row in dicts(query(connection, "cron_jobs", {"jobs": None}))}


def last_runs(engine: Engine) -> dict[str, dict[str, Any]]:
    """The newest run of each job that has begun, as rows of `cron_last.sql`, by name."""
    with single(engine) as connection:
        return {row["job"]: row for row in dicts(query(connection, "cron_last"))}


def set_back(engine: Engine, jobs: Sequence[str], now: datetime) -> None:
    """Forget slots that are still to come: a clock that was ahead has recorded them."""
    with transaction(engine) as connection:
        query(connection, "cron_set_back", {"jobs": list(jobs), "now": now})


def tidy(engine: Engine, *, jobs: Iterable[str], often: Iterable[str], now: datetime) -> None:
    """Delete runs that are long over, sooner those of the jobs `often`; let go of runs that wait
    for nothing. `jobs`: all there are."""
    values = {
        "jobs": list(jobs),
        "often": list(often),
        "often_kept_s": OFTEN_KEPT_S,
        "failed_kept_s": FAILED_KEPT_S,
        "kept_s": KEPT_S,
        "now": now,
    }
    with transaction(engine) as connection:
        query(connection, "cron_tidy", values)
