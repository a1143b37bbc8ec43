"""The cron table: each slot once, in order, in its lane, and what misfired by its policy (M01)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from celery import Celery
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine

import beat_schedule
from ledger import cron, lanes
from ledger.cron import Run
from ledger.errors import BadInput
from ledger.lanes import Ask
from scheduler.jobs import SLOTS_MAX, Job, Misfire, plan, read_table
from tasks import clock, sweep
from tasks import cron as cron_tasks
from tasks.context import Context, bind
from tests import makers
from tests.stack import await_true

START = datetime(2026, 11, 21, 12, tzinfo=UTC)  # a multiple of every interval used here
ALICE = Ask(principal="alice", reason="mint", lease_s=30.0)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def entry(**values: Any) -> dict[str, Any]:
    given = {"task": "test.tick", "schedule": 10.0, "lane": "default", "misfire": "skip"}
    return {**given, **values}


def job(name: str = "tick", **values: Any) -> Job:
    return read_table({name: entry(**values)})[name]


# What becomes of a slot, pure -----------------------------------------------------------------


def verdicts(
    found: Job, now_s: float, *, seen_s: float = 0, waiting: tuple[float, ...] = (), held: str = ""
) -> dict[float, str]:
    """Slot in seconds to its state; `dropped` for those that waited and will not run."""
    planned = plan(found, at(seen_s), [at(s) for s in waiting], at(now_s), held)
    told = {(e.slot - START).total_seconds(): e.state for e in planned.entries}
    return told | {(slot - START).total_seconds(): "dropped" for slot, _ in planned.drops}


CATCH_UP = {"misfire": "catch_up", "bound": 2}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, {10: "missed", 20: "missed", 30: "missed", 40: "missed"}),
        ({"misfire": "coalesce"}, {10: "missed", 20: "missed", 30: "missed", 40: "fired"}),
        (CATCH_UP, {10: "missed", 20: "missed", 30: "fired", 40: "fired"}),
    ],
)
def test_slots_that_nobody_came_for_follow_the_policy(
    values: dict[str, Any], expected: dict[float, str]
) -> None:
    assert verdicts(job(expires_s=5.0, **values), 47) == expected


def test_a_run_in_time_makes_up_for_what_was_missed() -> None:
    assert verdicts(job(expires_s=5.0, misfire="coalesce"), 42) == {
        10: "missed", 20: "missed", 30: "missed", 40: "fired",
    }  # fmt: skip
    late = plan(job(expires_s=5.0, misfire="coalesce"), at(0), [], at(42))
    assert "made up by the run of 2026-11-21 12:00:40" in late.entries[0].reason


def test_what_waited_too_long_for_its_turn_follows_the_policy() -> None:
    waited = (10.0, 20.0, 30.0)
    for values, left in (({}, ()), ({"misfire": "coalesce"}, (30.0,)), (CATCH_UP, (20.0, 30.0))):
        told = verdicts(job(expires_s=5.0, **values), 39, seen_s=30, waiting=waited)
        assert told == {slot: "dropped" for slot in waited if slot not in left}


@pytest.mark.parametrize("misfire", ["skip", "coalesce", "catch_up"])
def test_a_lane_that_is_held_never_ends_in_a_stampede(misfire: str) -> None:
    bound: dict[str, Any] = {"bound": 3} if misfire == "catch_up" else {}
    found = job(misfire=misfire, **bound)
    waiting: tuple[float, ...] = ()
    for now in range(10, 500, 10):
        told = verdicts(found, now, seen_s=now - 10, waiting=waiting, held="alice")
        waiting = tuple(s for s in waiting if s not in told)
        waiting += tuple(s for s, state in told.items() if state == "fired")
    assert waiting == {"skip": (), "coalesce": (490,), "catch_up": (470, 480, 490)}[misfire]
    planned = plan(job(), at(0), [], at(10), "alice")
    assert [(e.state, e.reason) for e in planned.entries] == [
        ("skipped", "the lane was held by alice")
    ]


def test_a_long_outage_is_recorded_in_few_rows() -> None:
    planned = plan(job(schedule=1.0, misfire="coalesce"), at(-86_400 * 3), [], at(0))
    assert len(planned.entries) == SLOTS_MAX + 1
    assert planned.entries[0].slots == 86_400 * 3 - SLOTS_MAX
    assert sum(e.slots for e in planned.entries) == 86_400 * 3


@given(
    st.sampled_from(list(Misfire)),
    st.integers(1, 5),
    st.floats(0.1, 30),
    st.lists(st.tuples(st.floats(0, 100), st.booleans(), st.booleans()), max_size=15),
)
@settings(deadline=None)
def test_whatever_happens_each_slot_ends_once(
    misfire: Misfire, bound: int, expires_s: float, looks: list[tuple[float, bool, bool]]
) -> None:
    """Looks at any time, the lane held or not, a run begun or not: each slot gets one end."""
    given: dict[str, Any] = {"bound": bound} if misfire is Misfire.CATCH_UP else {}
    found = job(misfire=str(misfire), expires_s=expires_s, **given)
    ends: dict[datetime, str] = {}
    waiting: list[datetime] = []
    seen = now = START
    for step, held, begins in looks:
        now += timedelta(seconds=step)
        planned = plan(found, seen, waiting, now, "alice" if held else "")
        for slot, _ in planned.drops:
            waiting.remove(slot)
            ends[slot] = "skipped"
        for item in planned.entries:
            assert item.slot not in ends
            assert item.slot > seen
            if item.state == "fired":
                waiting.append(item.slot)
            else:
                ends[item.slot] = item.state
        seen = max([seen, *(item.slot for item in planned.entries)])
        assert waiting == sorted(waiting)
        late = [slot for slot in waiting if held or slot < now - timedelta(seconds=expires_s)]
        assert len(late) <= {"skip": 0, "coalesce": 1, "catch_up": bound}[misfire]
        if begins and waiting and not held:
            ends[waiting.pop(0)] = "done"
    assert set(ends) | set(waiting) == set(found.schedule.upwards(START, now))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"misfire": "never"}, "tick.misfire: 'never' is no policy; use skip, coalesce, catch_up"),
        ({"bound": 3}, "tick.bound: it goes with catch_up"),
        ({"misfire": "catch_up"}, "tick.bound: it goes with catch_up"),
        ({"misfire": "catch_up", "bound": 0}, "tick.bound: 0 is no bound"),
        ({"misfire": "catch_up", "bound": True}, "tick.bound: True is no bound"),
        ({"schedule": "soon"}, "tick.schedule: 'soon' is no crontab"),
        ({"lane": "a b"}, "tick.lane: 'a b' is no lane"),
        ({"expires_s": 0}, "tick.expires_s: 0 is no length of time"),
        ({"limit_s": "1"}, "tick.limit_s: '1' is no length of time"),
        ({"every": 1}, "tick.every: there is no such key"),
    ],
)
def test_a_wrong_table_is_refused_by_name(values: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        job(**values)
    with pytest.raises(BadInput, match=r"beat_schedule\.tick\.lane: it is missing"):
        read_table({"tick": {"task": "t", "schedule": 1.0, "misfire": "skip"}})


# The ledger -----------------------------------------------------------------------------------


class Clock:
    """A time that the test sets, as the context's."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now.timestamp()

    def __iadd__(self, seconds: float) -> Clock:
        self.now += timedelta(seconds=seconds)
        return self


class Bench:
    """The cron table of one test, its tasks and its clock."""

    def __init__(self, engine: Engine, context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
        self.engine = engine
        self.clock = Clock()
        self.context = Context(
            engine=engine, reservations=context.reservations, lease_margin_s=1.0, clock=self.clock
        )
        self.ran: list[str] = []
        self.app = Celery("test", set_as_current=False)
        self._monkeypatch = monkeypatch
        self.task("test.tick", self.tick)

    def tick(self, name: str = "tick") -> None:
        self.ran.append(name)

    def task(self, name: str, body: Callable[..., Any]) -> None:
        self.app.task(name=name, shared=False)(body)

    def table(self, **jobs: dict[str, Any]) -> None:
        self._monkeypatch.setattr(beat_schedule, "beat_schedule", jobs)
        cron_tasks.table.cache_clear()

    def look(self, lane: str = "default", runs: int = 1000) -> list[Run]:
        """What a lane's thread does: everything that is due, or so many runs of it."""
        found: list[Run] = []
        while len(found) < runs and (begun := cron_tasks.begin_next(self.context, lane)):
            cron_tasks.carry_out(self.context, self.app, *begun)
            found.append(begun[1])
        return found

    def states(self, name: str = "tick") -> dict[float, str]:
        return {
            (row["slot"] - START).total_seconds(): row["state"]
            for row in reversed(cron.history(self.engine, name))
        }


@pytest.fixture
def bench(engine: Engine, context: Context, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    yield Bench(engine, context, monkeypatch)
    cron_tasks.table.cache_clear()


def test_a_job_is_due_from_when_it_is_first_known(bench: Bench) -> None:
    bench.table(tick=entry())
    bench.clock += 5
    assert bench.look() == []
    bench.clock += 5
    assert bench.look() == [Run("tick", at(10))]
    assert bench.look() == []
    (row,) = cron.history(bench.engine, "tick")
    assert (row["state"], row["principal"], row["fired_at"]) == ("done", "beat", at(10))
    assert (row["took_s"], row["reason"], row["slots"]) == (0, "", 1)


def test_the_slot_is_the_scheduled_time_whenever_somebody_comes(bench: Bench) -> None:
    bench.table(tick=entry())
    bench.look()
    bench.clock += 13.7
    assert bench.look() == [Run("tick", at(10))]
    bench.clock += 6.2
    assert bench.look() == []


def test_whoever_comes_at_once_a_slot_fires_once(bench: Bench) -> None:
    bench.table(tick=entry(), tock=entry(args=["tock"]))
    bench.look()
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            bench.clock += 10
            found = [run for runs in pool.map(lambda _: bench.look(), range(8)) for run in runs]
            assert sorted(found) == [Run(name, bench.clock.now) for name in ("tick", "tock")]
    assert sorted(bench.ran) == ["tick"] * 5 + ["tock"] * 5


def test_jobs_of_a_lane_run_in_the_order_of_their_slots(bench: Bench) -> None:
    bench.table(
        b=entry(schedule=20.0, args=["b"], expires_s=60),
        a=entry(schedule=15.0, args=["a"], expires_s=60),
        other=entry(schedule=10.0, args=["other"], expires_s=60, lane="mint"),
    )
    bench.look()
    bench.clock += 62
    assert bench.look() == [
        Run("a", at(15)), Run("b", at(20)), Run("a", at(30)), Run("b", at(40)), Run("a", at(45)),
        Run("a", at(60)), Run("b", at(60)),
    ]  # fmt: skip
    assert bench.ran == ["a", "b", "a", "b", "a", "a", "b"]


def test_runs_of_a_lane_come_one_at_a_time_and_a_hung_one_ends_with_its_limit(
    bench: Bench,
) -> None:
    bench.table(
        tick=entry(limit_s=30, expires_s=5, misfire="coalesce"), elsewhere=entry(lane="system")
    )
    bench.look(), bench.look("system")
    bench.clock += 10
    begun = cron_tasks.begin_next(bench.context, "default")
    assert begun is not None
    assert len(bench.look("system")) == 1, "another lane is not held up"
    bench.clock += 29.9
    assert bench.look() == []
    bench.clock += 0.1
    assert bench.look() == [Run("tick", at(40))]
    assert bench.states() == {10: "failed", 20: "missed", 30: "skipped", 40: "done"}
    assert not cron.end(bench.engine, begun[1], failed=None, now=bench.clock.now)
    row = cron.run_row(bench.engine, begun[1])
    assert row is not None
    assert (row["state"], row["reason"]) == ("failed", "it did not end within its limit")


def test_a_job_that_fails_says_why_and_the_next_one_runs(bench: Bench) -> None:
    def broken() -> None:
        raise ValueError("no such \x1b[31mquota")

    bench.task("test.broken", broken)
    bench.table(a=entry(task="test.broken"), b=entry(task="nobody.knows"), c=entry())
    bench.look()
    bench.clock += 10
    assert [run.job for run in bench.look()] == ["a", "b", "c"]
    told = {name: cron.history(bench.engine, name)[0] for name in "abc"}
    assert [row["state"] for row in told.values()] == ["failed", "failed", "done"]
    assert told["a"]["reason"] == "ValueError: no such [31mquota"
    assert told["b"]["reason"] == "no task is called nobody.knows"


def test_missed_slots_are_noticed_and_follow_the_policy(bench: Bench) -> None:
    bench.table(
        skip=entry(args=["skip"], expires_s=5),
        once=entry(args=["once"], expires_s=5, misfire="coalesce"),
        some=entry(args=["some"], expires_s=5, misfire="catch_up", bound=2),
    )
    bench.look()
    bench.clock += 48
    bench.look()
    assert bench.ran == ["some", "once", "some"]
    assert set(bench.states("skip").values()) == {"missed"}
    assert bench.states("once") == {10: "missed", 20: "missed", 30: "missed", 40: "done"}
    assert bench.states("some") == {10: "missed", 20: "missed", 30: "done", 40: "done"}


def test_another_schedule_begins_when_it_is_seen(bench: Bench) -> None:
    bench.table(tick=entry(schedule=3600.0))
    bench.look()
    bench.clock += 1800
    bench.table(tick=entry(schedule=1.0))
    bench.look()
    bench.clock += 1
    assert bench.look() == [Run("tick", at(1801))]
    assert bench.states() == {1801: "done"}


# Lanes ----------------------------------------------------------------------------------------


def test_nothing_begins_while_a_person_holds_the_lane(bench: Bench) -> None:
    bench.table(
        skip=entry(args=["skip"]),
        once=entry(args=["once"], misfire="coalesce"),
        some=entry(args=["some"], misfire="catch_up", bound=2),
    )
    bench.look()
    token = lanes.take(bench.engine, "default", ALICE, bench.clock.now).token
    for _ in range(5):
        bench.clock += 10
        lanes.renew(bench.engine, "default", token, at(1000), bench.clock.now)
        assert bench.look() == []
    bench.clock += 5
    lanes.release(bench.engine, "default", token, bench.clock.now)
    bench.look()
    assert bench.ran == ["some", "once", "some"]
    assert bench.states("skip") == dict.fromkeys((10, 20, 30, 40, 50), "skipped")
    row = cron.history(bench.engine, "skip")[0]
    assert row["reason"] == "the lane was held by alice"


def test_a_run_is_in_flight_until_it_ends_or_its_lease_does(bench: Bench) -> None:
    bench.table(tick=entry(limit_s=60.0))
    bench.look()
    bench.clock += 10
    begun = cron_tasks.begin_next(bench.context, "default")
    assert begun is not None
    taken = lanes.take(bench.engine, "default", ALICE, bench.clock.now)
    assert (taken.drained, taken.in_flight) == (False, 1)
    cron_tasks.carry_out(bench.context, bench.app, *begun)
    assert lanes.grant(bench.engine, "default", taken.token, bench.clock.now).drained
    lanes.release(bench.engine, "default", taken.token, bench.clock.now)
    bench.clock += 10
    assert cron_tasks.begin_next(bench.context, "default") is not None
    dead = lanes.take(bench.engine, "default", ALICE, bench.clock.now)
    assert not dead.drained
    bench.clock += 60
    assert lanes.grant(bench.engine, "default", dead.token, bench.clock.now).drained


def test_taking_a_lane_and_beginning_a_run_never_both_succeed(bench: Bench) -> None:
    bench.table(tick=entry(schedule=1.0, misfire="coalesce"))
    bench.look()
    gate = threading.Barrier(2)

    def take() -> lanes.Lane:
        gate.wait()
        return lanes.take(bench.engine, "default", ALICE, bench.clock.now)

    def begin() -> tuple[Job, Run] | None:
        gate.wait()
        return cron_tasks.begin_next(bench.context, "default")

    for _ in range(30):
        bench.clock += 1
        with ThreadPoolExecutor(2) as pool:
            asked, begins = pool.submit(take), pool.submit(begin)
            taken, begun = asked.result(), begins.result()
        assert taken.drained is (begun is None), "a holder and a run at once"
        if begun is not None:
            cron_tasks.carry_out(bench.context, bench.app, *begun)
            lanes.grant(bench.engine, "default", taken.token, bench.clock.now)
        lanes.release(bench.engine, "default", taken.token, bench.clock.now)


def test_a_run_by_hand_waits_its_turn_or_runs_under_its_holders_token(bench: Bench) -> None:
    bench.table(tick=entry(schedule=3600.0))
    bench.look()
    bench.clock += 5
    plain = cron.ask(bench.engine, "tick", "default", "bob", bench.clock.now)
    assert bench.look() == [plain]
    taken = lanes.take(bench.engine, "default", ALICE, bench.clock.now)
    bench.clock += 1
    waits = cron.ask(bench.engine, "tick", "default", "bob", bench.clock.now)
    bench.clock += 1
    mine = cron.ask(
        bench.engine, "tick", "default", "alice", bench.clock.now, fence=taken.token
    )  # fmt: skip
    assert bench.look() == [mine]
    bench.clock += 1
    cron.ask(bench.engine, "tick", "default", "alice", bench.clock.now, fence=taken.token)
    lanes.release(bench.engine, "default", taken.token, bench.clock.now)
    assert bench.look() == [waits]
    cron.tidy(bench.engine, jobs=["tick"], often=[], now=bench.clock.now)
    assert list(bench.states().values()) == ["done", "done", "done", "skipped"]
    row = cron.history(bench.engine, "tick", limit=1)[0]
    assert (row["principal"], row["reason"]) == ("alice", "the lane was lost")


# Housekeeping ---------------------------------------------------------------------------------


def test_history_does_not_grow_for_ever(bench: Bench) -> None:
    bench.table(tick=entry(), nightly=entry(schedule="0 3 * * *"), gone=entry(misfire="coalesce"))
    bench.look()
    lanes.take(bench.engine, "default", ALICE, bench.clock.now)
    bench.clock += 10
    bench.look()  # `gone` is deferred
    bench.table(tick=entry(), nightly=entry(schedule="0 3 * * *"))
    bench.context.reservations.fence({})
    (back,) = lanes.settle_down(bench.engine, at(60))
    assert back.drained
    bench.clock += 50
    bench.look()
    bind(bench.context)
    bench.clock.now = at(86_400)
    bench.look()
    assert set(bench.states("nightly").values()) == {"missed"}
    cron_tasks.tidy()
    assert set(bench.states().values()) == {"missed", "done"}
    assert list(bench.states("gone").values()) == ["skipped"]
    bench.clock.now = at(9 * 86_400)
    cron_tasks.tidy()
    assert bench.states() == {}
    assert len(bench.states("nightly")) == 1
    bench.clock.now = at(92 * 86_400)
    cron_tasks.tidy()
    assert bench.states("nightly") == {}


def test_a_clock_that_was_ahead_keeps_no_job_from_running(bench: Bench) -> None:
    bench.table(tick=entry(limit_s=60.0))
    bench.look()
    bench.clock += 7200
    bench.look()
    bench.clock += 10
    assert cron_tasks.begin_next(bench.context, "default") is not None, "and it dies"
    bench.clock += -7200
    bench.look()
    bench.clock += 10
    assert bench.look() == [Run("tick", at(20))]


def test_lanes_whose_holder_is_gone_come_back_and_redis_hears_of_all(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[dict[str, int]] = []
    monkeypatch.setattr(bench.context.reservations, "fence", told.append)
    lanes.take(bench.engine, "default", ALICE, bench.clock.now)
    bind(bench.context)
    cron_tasks.settle_lanes()
    bench.clock += 35
    cron_tasks.settle_lanes()
    assert told == [{"default": 2, "system": 1}, {"default": 3, "system": 1}]
    assert lanes.lane(bench.engine, "default", bench.clock.now).mode is lanes.Mode.CRON


def test_a_lane_that_a_job_names_exists(bench: Bench) -> None:
    bench.table(tick=entry(lane="mint"))
    bench.look("mint")
    assert lanes.lane(bench.engine, "mint", bench.clock.now).mode is lanes.Mode.CRON


# In a worker ----------------------------------------------------------------------------------


def test_a_hung_job_holds_up_neither_other_lanes_nor_its_own_for_ever(bench: Bench) -> None:
    release, hung = threading.Event(), threading.Event()

    def hang() -> None:
        hung.set()
        release.wait(60)

    bench.task("test.hang", hang)
    bench.table(
        hang=entry(task="test.hang", lane="mint", limit_s=0.05),
        other=entry(schedule=10.0, args=["other"], lane="mint", misfire="coalesce"),
        tick=entry(),
    )
    bench.app.set_current()
    try:
        bench.look(), bench.look("mint")
        bench.clock += 10
        bind(bench.context)
        cron_tasks.fire("hang")
        assert hung.wait(30)
        cron_tasks.fire("tick")
        await_true("the other lane goes on", lambda: bench.ran == ["tick"])
        bench.clock += 1  # the lease is over
        await_true("its lane goes on", lambda: (cron_tasks.reconcile(), "other" in bench.ran)[1])
        assert bench.states("hang") == {10: "failed"}
    finally:
        release.set()
    await_true("no thread is left", lambda: not cron_tasks._threads)


@pytest.mark.parametrize("message", ["nobody", None, 7, ["tick"], {"a": 1}])
def test_a_hint_may_hold_anything(bench: Bench, message: object) -> None:
    bench.table(tick=entry())
    cron_tasks.fire(message)
    assert not cron_tasks._threads


def test_system_jobs_are_in_the_same_table() -> None:
    table = read_table(beat_schedule.beat_schedule)
    assert {"sweep", "lanes", "reconcile", "snapshot", "clock", "tidy"} <= {
        job.name for job in table.values() if job.lane == lanes.SYSTEM
    }
    for found in (sweep.sweep, sweep.snapshot, clock.clock, cron_tasks.settle_lanes):
        assert found.name in {job.task for job in table.values()}


def test_a_lane_with_cron_jobs_is_taken_at_once_when_none_runs(bench: Bench) -> None:
    makers.install(bench.engine, START)
    bench.table(tick=entry())
    bench.look()
    bench.clock += 10
    bench.look()
    assert lanes.take(bench.engine, "default", ALICE, bench.clock.now).drained
