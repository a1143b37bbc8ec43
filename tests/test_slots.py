"""When a schedule is due, against the plainest way to say it, over many schedules and spans."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice

import pytest
from celery.schedules import crontab
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.errors import BadInput
from scheduler.slots import EPOCH, Crontab, Every, Schedule, coming, due, schedule_of

US = timedelta(microseconds=1)
SPAN = timedelta(days=3)

instants = st.datetimes(
    datetime(2000, 1, 1), datetime(2049, 12, 31), timezones=st.just(UTC)
)  # fmt: skip
every = st.integers(100_000, 10_000_000_000).map(lambda us: Every(period_us=us))


def part(low: int, high: int) -> st.SearchStrategy[str]:
    """A field of a crontab."""
    number = st.integers(low, high)
    ranges = st.tuples(number, number).map(sorted).map(lambda pair: f"{pair[0]}-{pair[1]}")
    return st.one_of(
        st.just("*"),
        number.map(str),
        st.integers(1, 30).map(lambda step: f"*/{step}"),
        st.lists(st.one_of(number.map(str), ranges), min_size=1, max_size=3).map(",".join),
    )


crontabs = st.tuples(
    part(0, 59), part(0, 23), st.one_of(st.just("*"), part(1, 28)), part(1, 12), part(0, 6)
).map(lambda parts: schedule_of(" ".join(parts), "schedule"))
schedules = st.one_of(every, crontabs)


def plainly(schedule: Crontab, after: datetime, until: datetime) -> list[datetime]:
    """Every minute of the span, asked one by one."""
    told = crontab.from_string(schedule.text)
    found = []
    minute = after.replace(second=0, microsecond=0)
    while (minute := minute + timedelta(minutes=1)) <= until:
        if (
            minute.minute in told.minute
            and minute.hour in told.hour
            and minute.day in told.day_of_month
            and minute.month in told.month_of_year
            and minute.isoweekday() % 7 in told.day_of_week
        ):
            found.append(minute)
    return found


@given(crontabs, instants, st.timedeltas(timedelta(0), SPAN))
@settings(max_examples=60, deadline=None)
def test_a_crontab_is_due_at_the_minutes_that_match(
    schedule: Crontab, after: datetime, span: timedelta
) -> None:
    assert list(schedule.upwards(after, after + span)) == plainly(schedule, after, after + span)


@given(every, instants, st.integers(0, 50))
def test_an_interval_is_due_at_its_multiples(schedule: Every, after: datetime, count: int) -> None:
    found = coming(schedule, after, count)
    assert len(found) == count
    for number, slot in enumerate(found):
        assert (slot - EPOCH) // US % schedule.period_us == 0
        assert 0 < (slot - after) // US - number * schedule.period_us <= schedule.period_us


@given(
    schedules,
    instants,
    st.lists(st.timedeltas(timedelta(0), timedelta(hours=5)), max_size=6),
)
@settings(deadline=None)
def test_however_often_one_looks_each_slot_is_due_once(
    schedule: Schedule, start: datetime, steps: list[timedelta]
) -> None:
    seen, found = start, list[datetime]()
    for step in steps:
        found += due(schedule, seen, seen + step, 1_000_000).slots
        seen += step
    assert found == list(schedule.upwards(start, seen))
    assert sorted(set(found)) == found


@given(schedules, instants, st.timedeltas(timedelta(0), SPAN), st.integers(1, 20))
@settings(deadline=None)
def test_of_many_slots_the_latest_are_named_and_the_others_counted(
    schedule: Schedule, after: datetime, span: timedelta, limit: int
) -> None:
    until = after + span
    count = schedule.count(after, until)
    found = due(schedule, after, until, limit)
    assert found.slots == tuple(reversed(list(islice(schedule.downwards(after, until), limit))))
    assert len(found.slots) == min(limit, count)
    assert found.earlier == count - len(found.slots)
    if found.earlier_last is None:
        assert not found.earlier
    else:
        assert found.earlier_last < found.slots[0]
        assert schedule.count(after, found.earlier_last) == found.earlier
        assert schedule.count(found.earlier_last, found.slots[0]) == 1


@given(schedules, instants, st.timedeltas(timedelta(0), timedelta(hours=5)))
@settings(deadline=None)
def test_upwards_and_downwards_are_the_same_slots(
    schedule: Schedule, after: datetime, span: timedelta
) -> None:
    up = list(islice(schedule.upwards(after, after + span), 500_000))
    assert up == sorted(schedule.downwards(after, after + span))
    assert schedule.count(after, after + span) == len(up)
    assert all(after < slot <= after + span for slot in up)


@given(schedules, instants)
@settings(deadline=None)
def test_a_clock_that_went_back_makes_nothing_due(schedule: Schedule, after: datetime) -> None:
    assert due(schedule, after, after - timedelta(hours=2), 10).slots == ()


def test_there_is_no_summer_time() -> None:
    """In Berlin 02:30 does not come on one of these days, and twice on the other."""
    nightly = schedule_of("30 2 * * *", "schedule")
    for day in (datetime(2026, 3, 29, tzinfo=UTC), datetime(2026, 10, 25, tzinfo=UTC)):
        assert due(nightly, day, day + timedelta(days=1), 10).slots == (
            day + timedelta(hours=2, minutes=30),
        )


def test_rare_slots_are_found_and_impossible_ones_are_none() -> None:
    now = datetime(2026, 11, 21, tzinfo=UTC)
    leap = schedule_of("0 0 29 2 *", "schedule")
    assert coming(leap, now, 2) == [datetime(year, 2, 29, tzinfo=UTC) for year in (2028, 2032)]
    monday = schedule_of("0 0 29 2 1", "schedule")
    assert coming(monday, now, 1) == [datetime(2044, 2, 29, tzinfo=UTC)]


@pytest.mark.parametrize(
    "given",
    [0, 0.09, -1, 1e9, float("inf"), float("nan"), True, None, [], "", "* * * *", "60 * * * *",
     "* * * * * *", "x * * * *", "0 0 30 2 *", "*/0 * * * *"],
)  # fmt: skip
def test_what_is_no_schedule_is_refused(given: object) -> None:
    with pytest.raises(BadInput, match=r"^beat_schedule\.x\.schedule: "):
        schedule_of(given, "beat_schedule.x.schedule")
