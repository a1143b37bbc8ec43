from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from ledger.errors import ClearlaneError
from ledger.model import Agent, AttemptKey, Outcome, Reply, SagaState, Verdict
from scheduler.connection import connect
from scheduler.judgement import Judgement
from scheduler.pool import MT, Pool, gives_back, refill_mt
from scheduler.reservations import ARRIVE_MS, STEP_MAX_MS, Credit, Reservations, Taken
from scheduler.router import Quote
from scheduler.saga import Saga
from tests.makers import agent, jump, work

NOW_MS = 1_000_000
LEASE_MS = 5_000
REPLY = Reply(outcome=Outcome.OK, latency_s=0.1, output={"a": [1, "é"]})
PASSED = Verdict(passed=True, reason="passed")
FAILED = Verdict(passed=False, reason="wrong", severe=True)
LOST = Verdict(passed=False, reason="gone")
KEY = AttemptKey("t", 1)


def quote(
    on: Agent,
    pool: Pool,
    key: AttemptKey = KEY,
    *,
    size: int = 100,
    cost_ub: int = 10,
    **values: Any,
) -> Quote:
    """What the router would have planned on this pool."""
    now_ms = values.pop("now_ms", NOW_MS)
    refill = refill_mt(pool, on, now_ms)
    given = {
        "y_seen_mt": min(on.y_max * MT, pool.y_mt + refill),
        "refill_mt": refill,
        "refilled_seen_ms": pool.refilled_at_ms,
    }
    return Quote(
        work=work(
            key.task,
            key=key,
            payer=values.pop("payer", "client:R"),
            size=size,
            fence=values.pop("fence", 1),
        ),
        agent=on,
        size_mt=size * MT,
        cost_ub=cost_ub,
        price_ub=float(cost_ub),
        **{**given, **values},
    )


def reserve(at: Reservations, *quotes: Quote, now_ms: int = NOW_MS, **values: Any) -> list[Taken]:
    given = {
        "spendable_ub": {"client:R": 1000, "P": 1000, "Q": 1000},
        "released_seen_ub": {"client:R": 0, "P": 0, "Q": 0},
        "lease_until_ms": {"f": now_ms + LEASE_MS},
    }
    return at.reserve(quotes, now_ms=now_ms, **{**given, **values})


def seeded(at: Reservations, *agents: Agent) -> Pool:
    at.seed(agents or [agent()], {}, NOW_MS)
    return pool(at, (agents or [agent()])[0].id)


def pool(at: Reservations, name: str = "A") -> Pool:
    return at.look([name])[0][name][0]


def credit(at: Reservations, client: str = "client:R") -> Credit:
    return at.look([], [client])[1][client]


def saga(at: Reservations, key: AttemptKey = KEY) -> Saga:
    (found,) = at.read([key])
    assert found is not None
    return found


def test_a_reservation_takes_capacity_slot_and_credit(reservations: Reservations) -> None:
    fresh = seeded(reservations)
    assert fresh == Pool(y_mt=1000 * MT, refilled_at_ms=NOW_MS, y_max_mt=1000 * MT)
    assert reserve(reservations, quote(agent(), fresh)) == [Taken.OK]
    taken = pool(reservations)
    assert (taken.y_mt, taken.in_flight, taken.last_action_ms) == (900 * MT, 1, NOW_MS)
    assert credit(reservations) == Credit(reserved_ub=10, released_ub=0)
    found = saga(reservations)
    assert (found.state, found.agent, found.cost_ub, found.gives_back) == (
        SagaState.RESERVED, "A", 10, True,
    )  # fmt: skip
    assert found.work == work(key=KEY)
    assert reservations.overdue(NOW_MS + LEASE_MS - 1, 10) == []
    assert reservations.overdue(NOW_MS + LEASE_MS, 10) == [KEY]


def test_reserving_twice_takes_once(reservations: Reservations) -> None:
    fresh = seeded(reservations)
    assert reserve(reservations, *[quote(agent(), fresh)] * 2) == [Taken.OK, Taken.DUPLICATE]
    assert (pool(reservations).y_mt, pool(reservations).in_flight) == (900 * MT, 1)
    assert credit(reservations).reserved_ub == 10


def test_a_chunk_planned_together_is_taken_together(reservations: Reservations) -> None:
    fresh = seeded(reservations)
    keys = [AttemptKey(f"t{n}", 1) for n in range(5)]
    quotes = [
        quote(agent(), fresh, key, y_seen_mt=(1000 - 100 * n) * MT) for n, key in enumerate(keys)
    ]
    assert reserve(reservations, *quotes) == [Taken.OK] * 5
    assert pool(reservations).y_mt == 500 * MT


def test_an_older_token_of_a_lane_takes_nothing(reservations: Reservations) -> None:
    fresh = seeded(reservations)
    reservations.fence({"default": 3})
    reservations.fence({"default": 2})  # told late: it changes nothing
    assert reserve(reservations, quote(agent(), fresh, fence=2)) == [Taken.FENCED]
    assert pool(reservations) == fresh
    assert reserve(reservations, quote(agent(), fresh, fence=3)) == [Taken.OK]


def test_a_wiped_redis_learns_the_token_from_who_comes_first(
    reservations: Reservations, redis_url: str
) -> None:
    reservations.fence({"default": 3})
    connect(redis_url).flushdb()
    fresh = seeded(reservations)
    keys = [AttemptKey("t", 1), AttemptKey("u", 1), AttemptKey("v", 1)]
    fences = (4, 3, 4)
    answers = [
        reserve(reservations, quote(agent(), pool(reservations), key, fence=fence))[0]
        for key, fence in zip(keys, fences, strict=True)
    ]
    assert answers == [Taken.OK, Taken.FENCED, Taken.OK]
    assert pool(reservations).in_flight == fresh.in_flight + 2


@pytest.mark.parametrize(
    ("now_is", "values"),
    [
        ("drained", {"y_seen_mt": 1001 * MT}),
        ("busy", {}),
        ("resting", {}),
        ("unknown", {}),
    ],
)
def test_a_pool_that_moved_gives_nothing(
    reservations: Reservations, now_is: str, values: dict[str, Any]
) -> None:
    on = agent(slots=0 if now_is == "busy" else 10)
    fresh = Pool(y_mt=1000 * MT, refilled_at_ms=NOW_MS)
    if now_is != "unknown":
        fresh = seeded(reservations, on)
    if now_is == "resting":
        reservations.rest({"A": 1}, NOW_MS)
    assert reserve(reservations, quote(on, fresh, **values)) == [Taken.MOVED]
    assert reservations.read([KEY]) == [None]
    assert credit(reservations) == Credit(reserved_ub=0, released_ub=0)
    assert reservations.count_in_flight() == 0


def test_credit_that_went_elsewhere_gives_nothing(reservations: Reservations) -> None:
    fresh = seeded(reservations)
    quotes = [
        quote(agent(), fresh, AttemptKey(f"t{n}", 1), cost_ub=400, y_seen_mt=MT) for n in range(3)
    ]
    assert reserve(reservations, *quotes) == [Taken.OK, Taken.OK, Taken.CREDIT]
    assert credit(reservations).reserved_ub == 800
    assert pool(reservations).in_flight == 2


def test_a_settlement_between_reading_and_reserving_is_not_spent_twice(
    reservations: Reservations,
) -> None:
    """Balance 1000 is read, 700 of it settle and are released, then 400 more are asked for."""
    fresh = seeded(reservations)
    reserve(reservations, quote(agent(), fresh, cost_ub=700))
    seen = credit(reservations)
    reservations.release([saga(reservations)], settled=True)
    late = quote(agent(), fresh, AttemptKey("t2", 1), cost_ub=400)
    seen_ub = {"client:R": seen.released_ub}
    assert reserve(reservations, late, released_seen_ub=seen_ub) == [Taken.CREDIT]
    # Read again, the balance is 300: 300 can be had, and 700 came back when it was aborted.
    fits = replace(late, cost_ub=300)
    now_ub = {"client:R": credit(reservations).released_ub}
    assert reserve(
        reservations, fits, spendable_ub={"client:R": 300}, released_seen_ub=now_ub
    ) == [Taken.OK]  # fmt: skip


def test_an_aborted_reservation_can_be_spent_again(reservations: Reservations) -> None:
    fresh = seeded(reservations)
    reserve(reservations, quote(agent(), fresh, cost_ub=700))
    reservations.release([saga(reservations)], settled=False)
    assert reserve(reservations, quote(agent(), fresh, AttemptKey("t2", 1), cost_ub=1000)) == [
        Taken.OK
    ]


def test_each_step_happens_once(reservations: Reservations) -> None:
    reserve(reservations, quote(agent(), seeded(reservations)))
    assert reservations.answer({KEY: REPLY}, NOW_MS) == [False], "nobody was asked yet"
    assert reservations.judge({KEY: PASSED}, [])[0] == [False]
    (began,) = reservations.begin([KEY], "first", NOW_MS)
    assert began.state is SagaState.EXECUTING
    assert reservations.begin([KEY], "second", NOW_MS) == []
    assert [item.work.key for item in reservations.begin([KEY], "first", NOW_MS)] == [KEY], (
        "it did not hear the first time"
    )
    assert reservations.answer({KEY: REPLY}, NOW_MS) == [True]
    assert reservations.begin([KEY], "first", NOW_MS) == []
    assert reservations.answer({KEY: replace(REPLY, output=2)}, NOW_MS) == [False]
    assert saga(reservations).reply == REPLY
    decided, standings = reservations.judge({KEY: PASSED}, ["A"])
    assert decided == [True]
    assert standings["A"][0].in_flight == 1
    assert reservations.judge({KEY: FAILED}, ["A"])[0] == [False]
    found = saga(reservations)
    assert (found.state, found.verdict) == (SagaState.SUCCEEDED, PASSED)
    assert reservations.give_up([found], LOST) == [False]
    for _ in range(2):
        reservations.release([found], settled=True)
    assert (pool(reservations).y_mt, pool(reservations).in_flight) == (1000 * MT, 0)
    assert credit(reservations) == Credit(reserved_ub=0, released_ub=10)
    assert reservations.begin([KEY], "first", NOW_MS) == []
    assert reservations.answer({KEY: REPLY}, NOW_MS) == [False]
    assert reservations.judge({KEY: PASSED}, [])[0] == [False]
    assert reservations.count_in_flight() == 0


def test_a_penalty_stays_with_a_failed_attempt(reservations: Reservations) -> None:
    reserve(reservations, quote(agent(), seeded(reservations)))
    penalty = jump((0.0, 5.0), (1.0, 0.7))
    reservations.begin([KEY], "first", NOW_MS)
    reservations.note_penalty({KEY: penalty})
    assert saga(reservations).penalty is None
    reservations.answer({KEY: REPLY}, NOW_MS)
    reservations.judge({KEY: FAILED}, [])
    reservations.note_penalty({KEY: penalty})
    reservations.note_penalty({KEY: jump()})
    assert saga(reservations).penalty == penalty


def test_a_given_up_attempt_was_somebodys_in_that_state(reservations: Reservations) -> None:
    reserve(reservations, quote(agent(), seeded(reservations)))
    reserved = saga(reservations)
    reservations.begin([KEY], "first", NOW_MS)
    assert reservations.give_up([reserved], LOST) == [False], "it moved on meanwhile"
    assert reservations.give_up([saga(reservations)], LOST) == [True]
    assert reservations.give_up([saga(reservations)], LOST) == [False]
    assert reservations.answer({KEY: REPLY}, NOW_MS) == [False]
    assert (saga(reservations).state, saga(reservations).verdict) == (SagaState.FAILED, LOST)


def test_an_attempt_that_was_just_answered_is_not_given_up(reservations: Reservations) -> None:
    reserve(reservations, quote(agent(), seeded(reservations)))
    (read_by_the_sweeper,) = reservations.begin([KEY], "first", NOW_MS)
    reservations.answer({KEY: REPLY}, NOW_MS)
    assert reservations.give_up([read_by_the_sweeper], LOST) == [False]


def test_leases_are_extended_only_while_in_flight(reservations: Reservations) -> None:
    reserve(reservations, quote(agent(), seeded(reservations)))
    other = AttemptKey("t2", 1)
    assert reservations.extend([KEY, other], NOW_MS + 60_000) == [1, 0]
    assert reservations.overdue(NOW_MS + 59_999, 10) == []
    assert reservations.overdue(NOW_MS + 60_000, 10) == [KEY]
    assert reservations.extend([other, KEY, KEY], NOW_MS + 61_000) == [0, 2, 3]
    reservations.release([saga(reservations)], settled=False)
    assert reservations.extend([KEY], NOW_MS + 62_000) == [0]
    assert reservations.count_in_flight() == 0


def test_a_lease_without_an_attempt_is_dropped(reservations: Reservations, redis_url: str) -> None:
    """As Redis leaves it when the attempt's key was lost and the lease was not."""
    reserve(reservations, quote(agent(), seeded(reservations)))
    connect(redis_url).delete("saga:t:1")
    assert reservations.read([KEY]) == [None]
    assert reservations.count_in_flight() == 1
    assert reservations.extend([KEY], NOW_MS + 60_000) == [0]
    assert reservations.count_in_flight() == 0


def test_a_lost_message_is_missed_early_however_long_the_call_may_take(
    reservations: Reservations,
) -> None:
    hour_ms = 3_600_000
    quoted = quote(agent(), seeded(reservations))
    reserve(reservations, quoted, lease_until_ms={"f": NOW_MS + hour_ms})
    assert reservations.overdue(NOW_MS + STEP_MAX_MS, 10) == [KEY], "nobody has begun"
    assert reservations.extend([KEY], NOW_MS + STEP_MAX_MS + 1) == [1]
    began_ms = NOW_MS + STEP_MAX_MS
    reservations.begin([KEY], "first", began_ms)
    assert reservations.overdue(began_ms + hour_ms - 1, 10) == [], "the agent has its time"
    assert reservations.overdue(began_ms + hour_ms, 10) == [KEY]
    answered_ms = began_ms + 1000
    reservations.answer({KEY: REPLY}, answered_ms)
    assert reservations.overdue(answered_ms + STEP_MAX_MS - 1, 10) == []
    assert reservations.overdue(answered_ms + STEP_MAX_MS, 10) == [KEY], "nobody has judged"
    assert reservations.extend([KEY], answered_ms + hour_ms) == [1], "counted from this step on"


def test_whether_anyone_began_is_on_record(reservations: Reservations) -> None:
    reserve(reservations, quote(agent(), seeded(reservations)))
    assert not saga(reservations).began
    reservations.begin([KEY], "first", NOW_MS)
    assert saga(reservations).began
    assert reservations.give_up([saga(reservations)], LOST) == [True]
    assert saga(reservations).began


def test_a_reply_that_nobody_judges_can_be_given_up(reservations: Reservations) -> None:
    reserve(reservations, quote(agent(), seeded(reservations)))
    reservations.begin([KEY], "first", NOW_MS)
    reservations.answer({KEY: REPLY}, NOW_MS)
    assert reservations.give_up([saga(reservations)], LOST) == [True]
    assert reservations.judge({KEY: PASSED}, [])[0] == [False]
    assert (saga(reservations).state, saga(reservations).verdict) == (SagaState.FAILED, LOST)


def test_what_was_judged_is_not_given_up(reservations: Reservations) -> None:
    reserve(reservations, quote(agent(), seeded(reservations)))
    reservations.begin([KEY], "first", NOW_MS)
    reservations.answer({KEY: REPLY}, NOW_MS)
    read_by_the_sweeper = saga(reservations)
    reservations.judge({KEY: PASSED}, [])
    assert reservations.give_up([read_by_the_sweeper], LOST) == [False]
    assert reservations.give_up([saga(reservations)], LOST) == [False]
    assert saga(reservations).verdict == PASSED


def test_seeding_again_changes_no_pool_of_that_size(reservations: Reservations) -> None:
    fresh = seeded(reservations)
    reserve(reservations, quote(agent(), fresh))
    known = {"A": (fresh, Judgement(f=3.0)), "B": (fresh, Judgement(f=2.0, s=0.5, samples=9))}
    reservations.seed([agent("A"), agent("B")], known, NOW_MS + 1)
    found, _ = reservations.look(["A", "B", "C"])
    assert set(found) == {"A", "B"}
    assert found["A"][0].y_mt == 900 * MT
    assert found["A"][1].f == 0.0
    assert found["B"] == (
        Pool(y_mt=1000 * MT, refilled_at_ms=NOW_MS + 1, y_max_mt=1000 * MT),
        Judgement(f=2.0, s=0.5, samples=9),
    )


def test_a_judgement_is_stored_by_compare_and_set(reservations: Reservations) -> None:
    seeded(reservations)
    before = reservations.look(["A"])[0]["A"][1]
    mine = Judgement(f=1 / 3, s=0.1 + 0.2, judged_at_ms=5, samples=1, version=1)
    assert reservations.store_judgements({"A": (before, mine)}) == []
    assert reservations.look(["A"])[0]["A"][1] == mine
    theirs = replace(mine, f=9.0)
    assert reservations.store_judgements({"A": (before, theirs)}) == ["A"]
    assert reservations.look(["A"])[0]["A"][1] == mine


def test_an_agent_rests_until_the_latest_instant(reservations: Reservations) -> None:
    seeded(reservations)
    reservations.rest({"A": 5_000, "nobody": 1}, NOW_MS)
    reservations.rest({"A": 4_999}, NOW_MS)
    assert pool(reservations).next_available_ms == NOW_MS + 5_000
    assert reservations.look(["nobody"])[0] == {}


def test_an_agent_that_says_429_again_and_again_rests_longer(reservations: Reservations) -> None:
    """Whatever it asks for; until it does a task. Two calls that were out together count once."""
    seeded(reservations)
    now_ms, rests = NOW_MS, []
    for _ in range(9):
        reservations.rest({"A": 0}, now_ms)
        reservations.rest({"A": 0}, now_ms + 999)
        rests.append(pool(reservations).next_available_ms - now_ms - 999)
        now_ms = pool(reservations).next_available_ms
    assert rests == [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000, 60_000]
    reservations.rest({"A": 3_600_000}, now_ms)
    now_ms += 3_600_000
    assert pool(reservations).next_available_ms == now_ms
    reserve(reservations, quote(agent(), pool(reservations)), now_ms=now_ms)
    reservations.begin([KEY], "first", now_ms)
    reservations.answer({KEY: REPLY}, now_ms)
    reservations.judge({KEY: PASSED}, [])
    reservations.release([saga(reservations)], settled=True)
    reservations.rest({"A": 0}, now_ms)
    assert pool(reservations).next_available_ms == now_ms + 1_000


def test_a_task_that_failed_otherwise_does_not_shorten_the_next_rest(
    reservations: Reservations,
) -> None:
    seeded(reservations)
    reservations.rest({"A": 0}, NOW_MS)
    now_ms = NOW_MS + 1_000
    reserve(reservations, quote(agent(), pool(reservations)), now_ms=now_ms)
    reservations.give_up([saga(reservations)], LOST)
    reservations.release([saga(reservations)], settled=False)
    reservations.rest({"A": 0}, now_ms)
    assert pool(reservations).next_available_ms == now_ms + 2_000


COOL = agent(cooldown_s=60.0)
COOL_MS = 60_000


def opens_ms(at: Reservations) -> int:
    return pool(at).next_available_ms - NOW_MS


def test_a_window_stays_shut_until_it_is_known_when_the_agent_was_called(
    reservations: Reservations,
) -> None:
    fresh = seeded(reservations, COOL)
    second = quote(COOL, fresh, AttemptKey("t2", 1), y_seen_mt=900 * MT)
    assert reserve(reservations, quote(COOL, fresh), second) == [Taken.OK, Taken.MOVED]
    assert opens_ms(reservations) == LEASE_MS + COOL_MS
    reservations.begin([KEY], "first", NOW_MS + 3_000)
    assert opens_ms(reservations) == 3_000 + ARRIVE_MS + COOL_MS
    reservations.begin([KEY], "second", NOW_MS + 4_000)  # nobody's call
    reservations.answer({KEY: REPLY}, NOW_MS + 3_200)
    assert opens_ms(reservations) == 3_200 + COOL_MS
    reservations.answer({KEY: REPLY}, NOW_MS + 9_000)  # a second answer
    reservations.release([saga(reservations)], settled=True)
    opens = NOW_MS + opens_ms(reservations)
    assert opens == NOW_MS + 3_200 + COOL_MS
    assert reserve(reservations, second, now_ms=opens - 1) == [Taken.MOVED]
    assert reserve(reservations, second, now_ms=opens) == [Taken.OK]


def test_a_long_call_does_not_lengthen_the_cooldown(reservations: Reservations) -> None:
    reserve(reservations, quote(COOL, seeded(reservations, COOL)))
    reservations.begin([KEY], "first", NOW_MS)
    reservations.answer({KEY: replace(REPLY, latency_s=9.0)}, NOW_MS + 9_000)
    assert opens_ms(reservations) == ARRIVE_MS + COOL_MS


def test_a_call_that_was_sent_late_counts_from_when_it_came(reservations: Reservations) -> None:
    """The worker had to start its HTTP client first, say."""
    reserve(reservations, quote(COOL, seeded(reservations, COOL)))
    reservations.begin([KEY], "first", NOW_MS)
    reservations.answer({KEY: replace(REPLY, latency_s=0.5)}, NOW_MS + 4_000)
    assert opens_ms(reservations) == 4_000 + COOL_MS


@pytest.mark.parametrize("asked_s", [0.0, 5.0, 600.0])
def test_an_agent_knows_best_when_its_window_opens(
    reservations: Reservations, asked_s: float
) -> None:
    reserve(reservations, quote(COOL, seeded(reservations, COOL)))
    reservations.begin([KEY], "first", NOW_MS)
    refused = Reply(outcome=Outcome.RATE_LIMITED, latency_s=0.1, retry_after_s=asked_s)
    reservations.answer({KEY: refused}, NOW_MS + 100)
    assert opens_ms(reservations) == 100 + asked_s * 1000


def test_a_window_that_nobody_used_is_open_again(reservations: Reservations) -> None:
    reserve(reservations, quote(COOL, seeded(reservations, COOL)))
    reservations.release([saga(reservations)], settled=False)
    assert pool(reservations).next_available_ms == 0


def test_a_call_that_nobody_heard_of_again_may_have_been_made(reservations: Reservations) -> None:
    reserve(reservations, quote(COOL, seeded(reservations, COOL)))
    reservations.begin([KEY], "first", NOW_MS)
    reservations.release([saga(reservations)], settled=False)
    assert opens_ms(reservations) == ARRIVE_MS + COOL_MS


def test_a_rest_that_was_asked_for_meanwhile_stays(reservations: Reservations) -> None:
    reserve(reservations, quote(COOL, seeded(reservations, COOL)))
    reservations.rest({"A": 2 * COOL_MS}, NOW_MS)
    reservations.begin([KEY], "first", NOW_MS)
    reservations.answer({KEY: REPLY}, NOW_MS)
    reservations.release([saga(reservations)], settled=True)
    assert opens_ms(reservations) == 2 * COOL_MS


def test_what_refills_by_time_is_not_given_back(reservations: Reservations) -> None:
    limited = agent(refill_per_s=100)
    reserve(reservations, quote(limited, seeded(reservations, limited)))
    reservations.release([saga(reservations)], settled=True)
    drained = pool(reservations)
    assert (drained.y_mt, drained.in_flight) == (900 * MT, 0)
    later = NOW_MS + 500
    again = quote(limited, drained, AttemptKey("t2", 1), now_ms=later)
    assert (again.y_seen_mt, again.refill_mt) == (950 * MT, 50 * MT)
    # Two that were planned on the same sight refill once.
    twin = quote(limited, drained, AttemptKey("t3", 1), now_ms=later, y_seen_mt=850 * MT)
    assert reserve(reservations, again, twin, now_ms=later) == [Taken.OK, Taken.OK]
    assert pool(reservations).y_mt == 750 * MT
    assert pool(reservations).refilled_at_ms == later


def test_releasing_after_a_wipe_changes_nothing(reservations: Reservations, redis_url: str) -> None:
    reserve(reservations, quote(agent(), seeded(reservations)))
    before = saga(reservations)
    connect(redis_url).flushall()
    reservations.release([before], settled=True)
    assert connect(redis_url).keys() == []
    seeded(reservations)
    reservations.release([before], settled=True)
    assert (pool(reservations).y_mt, pool(reservations).in_flight) == (1000 * MT, 0)
    assert credit(reservations) == Credit(reserved_ub=0, released_ub=0)


def test_a_server_that_lost_its_scripts_is_taught_again(
    reservations: Reservations, redis_url: str
) -> None:
    fresh = seeded(reservations)
    connect(redis_url).script_flush()
    assert reserve(reservations, quote(agent(), fresh)) == [Taken.OK]


def test_a_raised_y_max_becomes_capacity(reservations: Reservations) -> None:
    seeded(reservations)
    larger = agent(y_max=2000)
    reservations.seed([larger], {}, NOW_MS)
    reserve(reservations, quote(larger, pool(reservations)))
    reservations.release([saga(reservations)], settled=True)
    assert pool(reservations).y_mt == 2000 * MT


def test_a_lowered_y_max_leaves_taken_what_is_taken(reservations: Reservations) -> None:
    """Below zero while more is taken than the pool is large now; then exactly full."""
    fresh = seeded(reservations)
    reserve(reservations, quote(agent(), fresh, size=900))
    smaller = agent(y_max=300)
    for _ in range(2):  # a second worker that saw the old size changes nothing
        reservations.seed([smaller], {}, NOW_MS + 1)
        found = pool(reservations)
        assert (found.y_mt, found.y_max_mt, found.in_flight) == (-600 * MT, 300 * MT, 1)
    late = quote(smaller, found, AttemptKey("t2", 1), y_seen_mt=300 * MT)
    assert reserve(reservations, late) == [Taken.MOVED]
    reservations.release([saga(reservations)], settled=True)
    assert (pool(reservations).y_mt, pool(reservations).in_flight) == (300 * MT, 0)
    assert reserve(reservations, late) == [Taken.OK]


def test_a_resized_pool_keeps_its_judgement_and_its_rest(reservations: Reservations) -> None:
    seeded(reservations)
    before = reservations.look(["A"])[0]["A"][1]
    mine = replace(before, f=2.0, s=0.5, samples=3, version=1)
    reservations.store_judgements({"A": (before, mine)})
    reservations.rest({"A": 5_000}, NOW_MS)
    known = {"A": (Pool(y_mt=1, refilled_at_ms=1), Judgement(f=9.0))}
    reservations.seed([agent(y_max=500)], known, NOW_MS + 1)
    found, judged = reservations.look(["A"])[0]["A"]
    assert judged == mine
    assert found == Pool(
        y_mt=500 * MT, refilled_at_ms=NOW_MS, next_available_ms=NOW_MS + 5_000, y_max_mt=500 * MT
    )


def test_a_refill_stops_at_the_size_that_redis_knows(reservations: Reservations) -> None:
    """A worker that still plans with the larger size does not fill the smaller pool beyond it."""
    larger, smaller = agent(refill_per_s=100), agent(refill_per_s=100, y_max=600)
    reserve(reservations, quote(larger, seeded(reservations, larger), size=500))
    planned = pool(reservations)
    reservations.seed([smaller], {}, NOW_MS)
    later = NOW_MS + 60_000
    stale = quote(larger, planned, AttemptKey("t2", 1), now_ms=later, size=100, y_seen_mt=600 * MT)
    assert stale.refill_mt == 500 * MT
    assert reserve(reservations, stale, now_ms=later) == [Taken.OK]
    assert pool(reservations).y_mt == 500 * MT


def test_a_worker_whose_clock_is_behind_creates_no_capacity(reservations: Reservations) -> None:
    limited = agent(refill_per_s=100)
    fresh = seeded(reservations, limited)
    behind = quote(limited, fresh, now_ms=NOW_MS - 1_000)
    assert reserve(reservations, behind, now_ms=NOW_MS - 1_000) == [Taken.OK]
    assert pool(reservations).refilled_at_ms == NOW_MS
    assert pool(reservations).y_mt == 900 * MT


def test_a_full_redis_is_an_error_of_ours(reservations: Reservations, redis_url: str) -> None:
    fresh = seeded(reservations)
    server = connect(redis_url)
    before = str(server.config_get("maxmemory")["maxmemory"])
    server.config_set("maxmemory", 1)
    try:
        with pytest.raises(ClearlaneError):
            reserve(reservations, quote(agent(), fresh))
    finally:
        server.config_set("maxmemory", before)


# What a simple model says, after every step of a random sequence ------------------------------

AGENTS = {
    "A": agent("A", y_max=300, slots=3),
    "B": agent("B", y_max=500, slots=2, refill_per_s=50),
    "C": agent("C", y_max=200, slots=9, cooldown_s=0.5),
}
CLIENTS = ("P", "Q")
SPENDABLE_UB = 500


@dataclass
class Flight:
    """What the model knows of an attempt."""

    agent: str
    client: str
    size_mt: int
    cost_ub: int
    lease_ms: int
    state: str = "RESERVED"
    replied: bool = False
    caller: str = ""
    extended: int = 0
    window_ms: int = 0  # until when it keeps its agent's window shut


class Machine(RuleBasedStateMachine):
    redis_url = ""

    @initialize()
    def start(self) -> None:
        client: redis.Redis = connect(self.redis_url)
        client.flushall()
        self.at = Reservations(client)
        self.now_ms = NOW_MS
        self.numbers = 0
        self.old: list[Saga] = []  # as someone read them once
        self.flights: dict[AttemptKey, Flight] = {}
        self.settled_ub = dict.fromkeys(CLIENTS, 0)
        self.at.seed(AGENTS.values(), {}, NOW_MS)
        self.pools = {
            name: Pool(y_mt=item.y_max * MT, refilled_at_ms=NOW_MS, y_max_mt=item.y_max * MT)
            for name, item in AGENTS.items()
        }
        self.agents = dict(AGENTS)  # at their present size

    def reserved_ub(self, client: str) -> int:
        return sum(f.cost_ub for f in self.flights.values() if f.client == client)

    @rule(
        name=st.sampled_from(sorted(AGENTS)),
        client=st.sampled_from(CLIENTS),
        size=st.integers(1, 120),
        cost_ub=st.integers(0, 300),
        unseen=st.sampled_from([0, 0, 0, 7]),
        twice=st.booleans(),
    )
    def reserve(
        self, *, name: str, client: str, size: int, cost_ub: int, unseen: int, twice: bool
    ) -> None:
        on, seen = self.agents[name], self.pools[name]
        self.numbers += 1
        key = AttemptKey(f"t{self.numbers}", 1)
        asked = quote(on, seen, key, size=size, cost_ub=cost_ub, payer=client, now_ms=self.now_ms)
        if asked.size_mt >= asked.y_seen_mt:
            return  # the router never plans this
        asked = replace(asked, y_seen_mt=asked.y_seen_mt + unseen)
        full = min(on.y_max * MT, seen.y_mt + refill_mt(seen, on, self.now_ms))
        wanted = Taken.OK
        if seen.next_available_ms > self.now_ms or seen.in_flight >= on.slots or unseen:
            wanted = Taken.MOVED
        elif self.reserved_ub(client) + cost_ub > SPENDABLE_UB:
            wanted = Taken.CREDIT
        answers = reserve(
            self.at,
            *[asked] * (1 + twice),
            now_ms=self.now_ms,
            spendable_ub=dict.fromkeys(CLIENTS, SPENDABLE_UB),
            released_seen_ub=dict(self.settled_ub),
        )
        again = Taken.DUPLICATE if wanted is Taken.OK else wanted
        assert answers == [wanted, again][: 1 + twice]
        if wanted is Taken.OK:
            self.pools[name] = replace(
                seen,
                y_mt=full - asked.size_mt,
                refilled_at_ms=self.now_ms,
                in_flight=seen.in_flight + 1,
                last_action_ms=self.now_ms,
            )
            lease_ms = self.now_ms + LEASE_MS
            flight = Flight(name, client, asked.size_mt, cost_ub, lease_ms)
            self.flights[key] = flight
            if on.cooldown_s:
                flight.window_ms = seen.next_available_ms
                self.shut(flight, lease_ms + int(on.cooldown_s * 1000))

    def shut(self, flight: Flight, until_ms: int) -> None:
        """Move the window of its agent, if it is still the one that this attempt has set."""
        before = self.pools[flight.agent]
        if self.agents[flight.agent].cooldown_s and before.next_available_ms == flight.window_ms:
            self.pools[flight.agent] = replace(before, next_available_ms=until_ms)
            flight.window_ms = until_ms

    def some_key(self, pick: int) -> AttemptKey:
        """Any attempt there ever was, or one that never was."""
        return AttemptKey(f"t{pick % (self.numbers + 1)}", 1)

    @rule(pick=st.integers(0, 50), caller=st.sampled_from("ab"))
    def begin(self, pick: int, caller: str) -> None:
        key = self.some_key(pick)
        flight = self.flights.get(key)
        mine = flight is not None and (
            flight.state == "RESERVED"
            or (flight.state == "EXECUTING" and flight.caller == caller and not flight.replied)
        )
        assert [item.work.key for item in self.at.begin([key], caller, self.now_ms)] == [key] * mine
        if flight is not None and mine:
            flight.state, flight.caller, flight.extended = "EXECUTING", caller, 0
            flight.lease_ms = self.now_ms + LEASE_MS
            cooldown_ms = int(self.agents[flight.agent].cooldown_s * 1000)
            self.shut(flight, self.now_ms + ARRIVE_MS + cooldown_ms)

    @rule(
        pick=st.integers(0, 50),
        latency_ms=st.integers(0, 3_000),
        asked_ms=st.sampled_from([None, None, 0, 2_000]),
    )
    def answer(self, pick: int, latency_ms: int, asked_ms: int | None) -> None:
        key = self.some_key(pick)
        flight = self.flights.get(key)
        mine = flight is not None and flight.state == "EXECUTING" and not flight.replied
        asked_s = None if asked_ms is None else asked_ms / 1000
        reply = replace(REPLY, latency_s=latency_ms / 1000, retry_after_s=asked_s)
        assert self.at.answer({key: reply}, self.now_ms) == [mine]
        if flight is not None and mine:
            flight.replied, flight.extended = True, 0
            flight.lease_ms = self.now_ms + LEASE_MS
            cooldown_ms = int(self.agents[flight.agent].cooldown_s * 1000)
            # It was sent `latency_ms` ago and came within ARRIVE_MS, and not after its answer.
            came_ms = min(self.now_ms, self.now_ms - latency_ms + ARRIVE_MS)
            opens_ms = came_ms + cooldown_ms if asked_ms is None else self.now_ms + asked_ms
            self.shut(flight, opens_ms)

    @rule(pick=st.integers(0, 50), passed=st.booleans())
    def judge(self, pick: int, passed: bool) -> None:
        key = self.some_key(pick)
        flight = self.flights.get(key)
        mine = flight is not None and flight.state == "EXECUTING"
        assert self.at.judge({key: PASSED if passed else FAILED}, [])[0] == [mine]
        if flight is not None and mine:
            flight.state = "SUCCEEDED" if passed else "FAILED"

    @rule(pick=st.integers(0, 50))
    def remember(self, pick: int) -> None:
        """Someone reads an attempt now and acts on it later."""
        self.old += [item for item in self.at.read([self.some_key(pick)]) if item is not None]

    @rule(pick=st.integers(0, 50))
    def give_up(self, pick: int) -> None:
        if not self.old:
            return
        seen = self.old[pick % len(self.old)]
        flight = self.flights.get(seen.work.key)
        mine = (
            flight is not None
            and flight.state in ("RESERVED", "EXECUTING")
            and flight.state == seen.state
            and flight.replied == (seen.reply is not None)
        )
        assert self.at.give_up([seen], LOST) == [mine]
        if flight is not None and mine:
            flight.state = "FAILED"

    @rule(pick=st.integers(0, 50), ms=st.integers(0, 10_000))
    def extend(self, pick: int, ms: int) -> None:
        key = self.some_key(pick)
        flight = self.flights.get(key)
        if flight is None:
            assert self.at.extend([key], self.now_ms + ms) == [0]
            return
        flight.lease_ms = self.now_ms + ms
        flight.extended += 1
        assert self.at.extend([key], self.now_ms + ms) == [flight.extended]

    @rule(name=st.sampled_from(sorted(AGENTS)), y_max=st.integers(100, 600))
    def resize(self, name: str, y_max: int) -> None:
        before = self.pools[name]
        self.agents[name] = replace(self.agents[name], y_max=y_max)
        self.at.seed([self.agents[name]], {}, self.now_ms)
        self.pools[name] = replace(
            before, y_mt=before.y_mt + y_max * MT - before.y_max_mt, y_max_mt=y_max * MT
        )

    @rule(pick=st.integers(0, 50), settled=st.booleans())
    def release(self, pick: int, settled: bool) -> None:
        if self.old:
            self._release(self.old[pick % len(self.old)], settled)

    def _release(self, seen: Saga, settled: bool) -> None:
        self.at.release([seen], settled=settled)
        flight = self.flights.pop(seen.work.key, None)
        if flight is None:
            return
        on, before = self.agents[flight.agent], self.pools[flight.agent]
        back = flight.size_mt if gives_back(on) else 0
        self.pools[flight.agent] = replace(
            before,
            y_mt=min(on.y_max * MT, before.y_mt + back),
            in_flight=before.in_flight - 1,
        )
        if not flight.caller:
            self.shut(flight, 0)
        if settled:
            self.settled_ub[flight.client] += flight.cost_ub

    @rule(ms=st.integers(1, 3_000))
    def pass_time(self, ms: int) -> None:
        self.now_ms += ms

    @invariant()
    def redis_agrees_with_the_model(self) -> None:
        found, credits = self.at.look(list(AGENTS), CLIENTS)
        assert {name: standing[0] for name, standing in found.items()} == self.pools
        for name, seen in self.pools.items():
            assert seen.y_mt <= seen.y_max_mt == self.agents[name].y_max * MT
            if gives_back(self.agents[name]):
                taken_mt = sum(f.size_mt for f in self.flights.values() if f.agent == name)
                assert seen.y_mt == seen.y_max_mt - taken_mt
        for client in CLIENTS:
            assert credits[client] == Credit(
                reserved_ub=self.reserved_ub(client), released_ub=self.settled_ub[client]
            )
        assert self.at.count_in_flight() == len(self.flights)
        late = {key for key, flight in self.flights.items() if flight.lease_ms <= self.now_ms}
        assert set(self.at.overdue(self.now_ms, 100)) == late

    def teardown(self) -> None:
        if not hasattr(self, "at"):
            return
        for left in self.at.read(list(self.flights)):
            assert left is not None
            self._release(left, settled=False)
        self.redis_agrees_with_the_model()
        for name, item in self.agents.items():
            assert self.pools[name].in_flight == 0
            if gives_back(item):
                assert self.pools[name].y_mt == item.y_max * MT
        server = connect(self.redis_url)
        assert server.keys("saga:*") == []
        assert server.zcard("leases") == 0


def test_nothing_is_leaked_by_any_sequence(redis_url: str) -> None:
    Machine.redis_url = redis_url
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=40,
            stateful_step_count=40,
            deadline=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
