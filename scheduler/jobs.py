"""The cron table: what its entries mean, and what becomes of a slot that is due.

Pure: the table is given, times are arguments. Row M01.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from ledger.errors import BadInput
from ledger.model import Json
from scheduler.slots import Every, Schedule, due, schedule_of

SLOTS_MAX = 1000  # missed slots recorded one by one; those before them in one row
BOUND_MAX = 100
CRONTAB_EXPIRES_S = 60.0
LIMIT_S = 60.0
KEYS = frozenset(
    ("task", "schedule", "lane", "misfire", "bound", "expires_s", "limit_s", "args")
)  # fmt: skip
NEEDED = frozenset(("task", "schedule", "lane", "misfire"))
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
OFTEN_S = 60.0  # a job with less between two slots has a short history


class Misfire(StrEnum):
    """What becomes of slots that nobody could start in time."""

    SKIP = "skip"  # nothing
    COALESCE = "coalesce"  # one run makes up for all
    CATCH_UP = "catch_up"  # the latest `bound` run after all


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """An entry of the table.

    expires_s: later than this after its slot a run has misfired. limit_s: a run that takes longer
    counts as failed, and its lane goes on. bound: with `catch_up` alone.
    """

    name: str
    task: str
    schedule: Schedule
    lane: str
    misfire: Misfire
    bound: int
    expires_s: float
    limit_s: float
    args: tuple[Json, ...] = ()

    @property
    def often(self) -> bool:
        """Whether it runs more than once a minute."""
        return self.schedule.period_s < OFTEN_S


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A slot to be recorded; fired when there is no verdict on it, else missed or skipped."""

    slot: datetime
    state: str = "fired"
    reason: str = ""
    slots: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What to record of one job: slots seen for the first time; runs that will not begin."""

    entries: tuple[Entry, ...]
    drops: tuple[tuple[datetime, str], ...]  # (slot, reason)


def plan(
    job: Job, seen: datetime, waiting: Sequence[datetime], now: datetime, held_by: str = ""
) -> Plan:
    """Apply a job's policy to the slots after `seen` and to the runs that wait for their turn.

    held_by: who has taken the lane from cron; empty: it is cron's. Then nothing can begin, and
    whatever waits has misfired.
    """
    found = due(job.schedule, seen, now, SLOTS_MAX)
    slots = sorted({*waiting, *found.slots})
    oldest = now - timedelta(seconds=job.expires_s)
    misfired = [slot for slot in slots if held_by or slot < oldest]
    kept = set(slots[len(misfired) :]) if not held_by else set[datetime]()
    kept |= set(_made_up(job, misfired, in_time=bool(kept)))
    by = f"; made up by the run of {max(kept):%Y-%m-%d %H:%M:%S}" if kept else ""
    by = "" if job.misfire is Misfire.SKIP else by
    new = set(found.slots)
    held = f"the lane was held by {held_by}{by}"
    entries = [
        Entry(slot=slot)
        if slot in kept
        else Entry(slot=slot, state="skipped", reason=held)
        if held_by
        else Entry(slot=slot, state="missed", reason=f"nobody came in time{by}")
        for slot in found.slots
    ]
    if found.earlier_last is not None:
        reason = held if held_by else f"nobody came in time{by}"
        first = Entry(slot=found.earlier_last, state="missed", reason=reason, slots=found.earlier)
        entries.insert(0, first)
    late = held if held_by else f"its turn did not come within {job.expires_s:g} s{by}"
    drops = tuple((slot, late) for slot in slots if slot not in kept and slot not in new)
    return Plan(entries=tuple(entries), drops=drops)


def _made_up(job: Job, misfired: Sequence[datetime], *, in_time: bool) -> Sequence[datetime]:
    """Those of the slots that misfired which run after all."""
    match job.misfire:
        case Misfire.COALESCE:
            return () if in_time else misfired[-1:]
        case Misfire.CATCH_UP:
            return misfired[-job.bound :]
    return ()


def read_table(given: Mapping[str, Mapping[str, Any]]) -> dict[str, Job]:
    """The table, checked. Raises BadInput that names entry and key."""
    return {name: _job(name, entry) for name, entry in given.items()}


def _job(name: object, entry: object) -> Job:
    place = f"beat_schedule.{name}"
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise BadInput(place, "that is no name", "use letters, digits, dots and dashes, 64 at most")
    if not isinstance(entry, Mapping):
        raise BadInput(place, f"{entry!r} is no job", "use a dict")
    for wrong in sorted(set(map(str, entry)) - KEYS):
        raise BadInput(f"{place}.{wrong}", "there is no such key", f"use {', '.join(sorted(KEYS))}")
    for missing in sorted(NEEDED - set(entry)):
        raise BadInput(f"{place}.{missing}", "it is missing", "add it")
    schedule = schedule_of(entry["schedule"], f"{place}.schedule")
    expires_s = 2 * schedule.period_s if isinstance(schedule, Every) else CRONTAB_EXPIRES_S
    misfire, bound = _policy(place, entry)
    for key, what in (("lane", "lane"), ("task", "Celery task")):
        if not isinstance(entry[key], str) or not NAME.fullmatch(entry[key]):
            raise BadInput(f"{place}.{key}", f"{entry[key]!r} is no {what}", "name one")
    args = entry.get("args", ())
    if not isinstance(args, list | tuple):
        raise BadInput(f"{place}.args", f"{args!r} is no list", "put the arguments into [ ]")
    return Job(
        name=name,
        task=entry["task"],
        schedule=schedule,
        lane=str(entry["lane"]),
        misfire=misfire,
        bound=bound,
        expires_s=_seconds(place, entry, "expires_s", expires_s),
        limit_s=_seconds(place, entry, "limit_s", LIMIT_S),
        args=tuple(args),
    )


def _policy(place: str, entry: Mapping[str, Any]) -> tuple[Misfire, int]:
    try:
        misfire = Misfire(entry["misfire"])
    except ValueError:
        reason, remedy = f"{entry['misfire']!r} is no policy", f"use {', '.join(Misfire)}"
        raise BadInput(f"{place}.misfire", reason, remedy) from None
    bound = entry.get("bound")
    if (misfire is Misfire.CATCH_UP) != (bound is not None):
        raise BadInput(f"{place}.bound", "it goes with catch_up", "give both, or neither")
    if bound is not None and not (type(bound) is int and 1 <= bound <= BOUND_MAX):
        raise BadInput(f"{place}.bound", f"{bound!r} is no bound", f"use 1 to {BOUND_MAX}")
    return misfire, bound or 1


def _seconds(place: str, entry: Mapping[str, Any], key: str, default: float) -> float:
    value = entry.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise BadInput(f"{place}.{key}", f"{value!r} is no length of time", "use seconds above 0")
    return float(value)
