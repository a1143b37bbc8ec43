"""When a schedule is due: pure, in UTC, from the schedule alone.

A slot is an instant that a schedule names: an interval its multiples since 1970, a crontab the
minutes that match. There is no summer time. Nothing here knows when anybody came to look. Row M01.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from itertools import islice

from celery.schedules import ParseException, crontab

from ledger.errors import BadInput

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
INTERVAL_MIN_S = 0.1
INTERVAL_MAX_S = 366 * 86_400.0
AHEAD_MAX = timedelta(days=366 * 41)  # the 29th of February is a Monday once in 28 years, or in 40

_US = timedelta(microseconds=1)
_MINUTE = timedelta(minutes=1)
_DAY = timedelta(days=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Every:
    """An interval in microseconds."""

    period_us: int

    @property
    def text(self) -> str:
        """As people write it."""
        return f"every {self.period_us / 1e6:g} s"

    @property
    def period_s(self) -> float:
        """Seconds between two slots."""
        return self.period_us / 1e6

    def upwards(self, after: datetime, until: datetime) -> Iterator[datetime]:
        """Slots later than `after` up to `until`, the earliest first."""
        return map(self._slot, range(self._number(after) + 1, self._number(until) + 1))

    def downwards(self, after: datetime, until: datetime) -> Iterator[datetime]:
        """The same, the latest first."""
        return map(self._slot, range(self._number(until), self._number(after), -1))

    def count(self, after: datetime, until: datetime) -> int:
        """How many these are."""
        return max(0, self._number(until) - self._number(after))

    def _number(self, at: datetime) -> int:
        return (at - EPOCH) // _US // self.period_us

    def _slot(self, number: int) -> datetime:
        return EPOCH + number * self.period_us * _US


@dataclass(frozen=True, kw_only=True, slots=True)
class Crontab:
    """Minute, hour, day of the month, month, day of the week; a day has to match all three."""

    text: str
    minutes: tuple[int, ...] = field(repr=False)  # of a day that matches, ascending
    days: frozenset[int] = field(repr=False)
    months: frozenset[int] = field(repr=False)
    weekdays: frozenset[int] = field(repr=False)  # 0: Sunday

    @property
    def period_s(self) -> float:
        """No two slots are closer than this."""
        return 60.0

    def upwards(self, after: datetime, until: datetime) -> Iterator[datetime]:
        """Slots later than `after` up to `until`, the earliest first."""
        day = after.date()
        while day <= until.date():
            first, last = self._within(day, after, until)
            for minute in self.minutes[first:last]:
                yield _midnight(day) + minute * _MINUTE
            day += _DAY

    def downwards(self, after: datetime, until: datetime) -> Iterator[datetime]:
        """The same, the latest first."""
        day = until.date()
        while day >= after.date():
            first, last = self._within(day, after, until)
            for minute in reversed(self.minutes[first:last]):
                yield _midnight(day) + minute * _MINUTE
            day -= _DAY

    def count(self, after: datetime, until: datetime) -> int:
        """How many these are."""
        found, day = 0, after.date()
        while day <= until.date():
            first, last = self._within(day, after, until)
            found += max(0, last - first)
            day += _DAY
        return found

    def _within(self, day: date, after: datetime, until: datetime) -> tuple[int, int]:
        """Which of `minutes` of that day are later than `after` and not later than `until`."""
        matches = (
            day.day in self.days
            and day.month in self.months
            and day.isoweekday() % 7 in self.weekdays
        )
        if not matches:
            return 0, 0
        midnight = _midnight(day)
        return (
            bisect_right(self.minutes, (after - midnight) // _MINUTE),
            bisect_right(self.minutes, (until - midnight) // _MINUTE),
        )


Schedule = Every | Crontab


@dataclass(frozen=True, kw_only=True, slots=True)
class Due:
    """Slots in a span, ascending; of more than were asked for the latest.

    earlier: how many there are besides; earlier_last: the latest of those.
    """

    slots: tuple[datetime, ...]
    earlier: int = 0
    earlier_last: datetime | None = None


def due(schedule: Schedule, after: datetime, until: datetime, limit: int) -> Due:
    """The slots later than `after`, up to `until`; at most `limit` of them one by one."""
    latest = list(islice(schedule.downwards(after, until), limit + 1))
    slots = tuple(reversed(latest[:limit]))
    if len(latest) <= limit:
        return Due(slots=slots)
    last = latest[limit]
    return Due(slots=slots, earlier=schedule.count(after, last), earlier_last=last)


def coming(schedule: Schedule, after: datetime, limit: int) -> list[datetime]:
    """The next slots; fewer when the schedule has none for forty years."""
    return list(islice(schedule.upwards(after, after + AHEAD_MAX), limit))


def schedule_of(given: object, field_name: str) -> Schedule:
    """A number of seconds, or a crontab of five fields. Raises BadInput."""
    match given:
        case int() | float() if given is not True and given is not False:
            if not INTERVAL_MIN_S <= given <= INTERVAL_MAX_S:
                reason = f"{given:g} is no interval"
                raise BadInput(field_name, reason, f"use {INTERVAL_MIN_S:g} s to a year")
            return Every(period_us=round(given * 1_000_000))
        case str():
            return _crontab(given, field_name)
    raise BadInput(field_name, f"{given!r} is no schedule", "use seconds, or a crontab in quotes")


def _crontab(text: str, field_name: str) -> Crontab:
    """Celery reads it, so that beat and the slots agree."""
    try:
        found = crontab.from_string(" ".join(text.split()))
    except (ValueError, TypeError, ParseException) as error:
        remedy = "use five fields: minute, hour, day of the month, month, day of the week"
        raise BadInput(field_name, f"{text!r} is no crontab: {error}", remedy) from error
    minutes = sorted(60 * hour + minute for hour in found.hour for minute in found.minute)
    return Crontab(
        text=" ".join(text.split()),
        minutes=tuple(minutes),
        days=frozenset(found.day_of_month),
        months=frozenset(found.month_of_year),
        weekdays=frozenset(found.day_of_week),
    )


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)
