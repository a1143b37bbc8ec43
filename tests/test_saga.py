"""The whole saga, step by step in one process: real ledger, real reservations, and a transport that
delivers messages in any order, twice, or never."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from kombu.exceptions import OperationalError
from sqlalchemy import Engine

import tasks.messages
from ledger import attempts, check, intake, lanes, leaves
from ledger.errors import Conflict, NotFound, Unavailable
from ledger.model import AttemptKey, Outcome, Reply, Settlement, TaskState, Wait
from ledger.proof import entries
from ledger.registry import suspend
from scheduler.connection import connect
from scheduler.judgement import Judgement
from scheduler.pool import MT, Pool, refill_mt
from scheduler.reservations import Reservations
from scheduler.saga import Saga
from tasks import abort, commit, execute, reserve, sweep, validate
from tasks.call import Call
from tasks.context import Context, bind
from tasks.messages import ABORT, COMMIT, EXECUTE, RESERVE, VALIDATE, send
from tasks.outsource import outsource
from tests.makers import UB, agent, balance_ub, client, family, install, minted, submit
from workers.audit import audit

MARGIN_S = 1.0
STEPS: dict[str, Callable[[Any], None]] = {
    RESERVE: reserve.reserve,
    EXECUTE: execute.execute,
    VALIDATE: validate.validate,
    COMMIT: commit.commit,
    ABORT: abort.abort,
}
AGENTS = [
    # A low k: the last tokens of a pool cost k/y, and a thousand times that per milli-token.
    # The quota is for subtasks: those are paid before their parents.
    agent("A", k=1000, y_max=1000, slots=3, quota_ub=UB),
    agent("B", k=1000, y_max=600, slots=2, quota_ub=UB),
    agent("C", k=1000, y_max=500, slots=4, refill_per_s=100, quota_ub=UB),
]
FAMILIES = [
    family("good", max_attempts=3),
    family("bad", max_attempts=2, validator={"type": "exact", "value": "never"}),
]
REPLIES = [
    Reply(outcome=Outcome.OK, latency_s=0.1),
    Reply(outcome=Outcome.TIMEOUT, latency_s=5.0),
    Reply(outcome=Outcome.RATE_LIMITED, latency_s=0.1, retry_after_s=2.0),
    Reply(outcome=Outcome.ERROR, latency_s=0.1, detail="HTTP 500"),
]
_names = itertools.count()
POOR_UB, RICH_UB = 2 * UB, 1_000_000_000 * UB


class Transport:
    """Celery's part: keeps what is sent until somebody delivers it."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, list[Any]]] = []

    def send_task(self, name: str, args: list[Any], **_shown: str) -> None:
        self.messages.append((name, args[0]))

    def deliver(self, index: int, *, keep: bool = False) -> str:
        name, message = self.messages[index] if keep else self.messages.pop(index)
        STEPS[name](message)
        return name


class Agents:
    """The execute step's loop: answers at once, with what the test has in store, or never."""

    def __init__(self) -> None:
        self.next: list[Reply | None] = []
        self.calls = Counter[AttemptKey]()

    def start(self, calls: Sequence[Call]) -> None:
        replies = {}
        for call in calls:
            self.calls[call.key] += 1
            planned = self.next.pop(0) if self.next else REPLIES[0]
            if planned is not None:
                output = call.payload if planned.outcome is Outcome.OK else None
                replies[call.key] = Reply(
                    outcome=planned.outcome,
                    latency_s=planned.latency_s,
                    output=output,
                    detail=planned.detail,
                    retry_after_s=planned.retry_after_s,
                )
        if replies:
            execute.forward(replies)


class Fleet:
    """One installation in one process, on a clock that the test moves."""

    def __init__(self, engine: Engine, at: Reservations, start_s: float) -> None:
        self.engine, self.at, self.now_s = engine, at, start_s
        self.transport, self.agents = Transport(), Agents()
        self.context = Context(
            engine=engine, reservations=at, lease_margin_s=MARGIN_S, clock=lambda: self.now_s
        )
        bind(self.context)

    @property
    def now(self) -> datetime:
        return datetime.fromtimestamp(self.now_s, UTC)

    def dispatch(self, limit: int = 64, hold: int = 9) -> int:
        """What the dispatcher does, one claim."""
        claims = attempts.claim(
            self.engine, limit=limit, hold={"default": hold}, margin_s=2 * MARGIN_S, now=self.now
        )
        send(RESERVE, [item.key for item in claims if not item.alone])
        for item in claims:
            if item.alone:
                send(RESERVE, [item.key])
        return len(claims)

    def deliver_all(self) -> None:
        while self.transport.messages:
            self.transport.deliver(0)

    def drain(self) -> None:
        """Faults are off: everything that waits must come to its end."""
        self.agents.next.clear()
        self.give_back()
        for _ in range(200):
            self.deliver_all()
            lanes.settle_down(self.engine, self.now)
            sweep.sweep()
            self.deliver_all()
            if not self.dispatch():
                waiting = intake.task_counts(self.engine)
                if all(row["state"] != "INIT" for row in waiting) and not self.in_flight():
                    return
                self.now_s += 1.5
        raise AssertionError(f"never quiet: {intake.task_counts(self.engine)}")

    def give_back(self, *, force: bool = False) -> None:
        """Whoever holds the lane lets go of it."""
        found = lanes.lane(self.engine, "default", self.now)
        if found.mode is lanes.Mode.MANUAL:
            lanes.release(self.engine, "default", found.token, self.now, force=force)

    def in_flight(self) -> int:
        return self.at.count_in_flight()

    def row(self, task: str) -> dict[str, Any]:
        return intake.task_row(self.engine, task)


@pytest.fixture
def fleet(
    engine: Engine, reservations: Reservations, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> Fleet:
    install(
        engine, now, clients=[client()], agents=AGENTS, families=FAMILIES,
        params={"routing": {"seed": 1}},
    )  # fmt: skip
    made = Fleet(engine, reservations, now.timestamp())
    monkeypatch.setattr(tasks.messages, "current_app", made.transport)
    monkeypatch.setattr(execute, "_loop", lambda: made.agents)
    return made


def test_a_good_task_is_paid_its_quoted_price(fleet: Fleet) -> None:
    (task,) = submit(fleet.engine, fleet.now, to="good")
    fleet.dispatch()
    path = []
    while fleet.transport.messages:
        path.append(fleet.transport.deliver(0))
    assert path == [RESERVE, EXECUTE, VALIDATE, COMMIT]
    row = fleet.row(task)
    assert (row["state"], row["output"]) == ("COMMITTED", {"n": 0})
    assert balance_ub(fleet.engine, "client:R") == 2_000_000_000 - row["cost_ub"]
    assert fleet.in_flight() == 0


def test_a_bad_task_goes_elsewhere_and_then_to_quarantine(fleet: Fleet) -> None:
    (task,) = submit(fleet.engine, fleet.now, to="bad")
    fleet.drain()
    row = fleet.row(task)
    assert (row["state"], row["failures"]) == ("QUARANTINED", 2)
    first, second = row["attempts"]
    assert first["agent"] != second["agent"]
    assert [item["f_after"] for item in row["attempts"]] == [5.0, 5.0]
    assert first["s_after"] == pytest.approx(0.7)
    assert balance_ub(fleet.engine, "client:R") == 2_000_000_000


def test_an_agent_that_said_429_rests_as_long_as_it_asked(fleet: Fleet) -> None:
    submit(fleet.engine, fleet.now, to="good")
    fleet.agents.next = [REPLIES[2]]
    fleet.dispatch()
    fleet.deliver_all()
    board, _ = fleet.at.look(["A", "B", "C"])
    rests = {pool.next_available_ms for pool, _ in board.values()}
    assert rests == {0, fleet.context.now_ms() + 2_000}
    assert all(judged.f == 0.0 and judged.s == 1.0 for _, judged in board.values())


def judged_before(fleet: Fleet) -> None:
    """Every agent has been found risky and poor just now."""
    now_ms = fleet.context.now_ms()
    pool = Pool(y_mt=0, refilled_at_ms=now_ms)
    judged = Judgement(f=4.0, s=0.5, judged_at_ms=now_ms)
    fleet.at.seed(AGENTS, {agent.id: (pool, judged) for agent in AGENTS}, now_ms)


def aborts(engine: Engine) -> list[dict[str, Any]]:
    every = [entries.decode(leaf) for leaf in leaves.entries(engine, 0, 10**9)]
    return [leaf for leaf in every if leaf["type"] == "abort"]


@pytest.mark.parametrize(
    ("reply", "rises"), [(REPLIES[1], True), (REPLIES[2], False), (REPLIES[3], False)]
)
def test_the_log_says_what_f_and_s_were_when_it_failed(
    fleet: Fleet, reply: Reply, rises: bool
) -> None:
    """f decays from when it was judged, also where nothing is added to it."""
    judged_before(fleet)
    submit(fleet.engine, fleet.now, to="good")
    fleet.now_s += 1000.0
    fleet.agents.next = [reply]
    fleet.dispatch()
    fleet.deliver_all()
    (leaf,) = aborts(fleet.engine)
    before, after = map(float, leaf["f"])
    assert before == pytest.approx(4.0 * math.exp(-1))
    assert after == pytest.approx(5.0 if rises else before)  # no more than f_max
    s_before, s_after = map(float, leaf["s"])
    assert s_before == 0.5
    sampled = reply.outcome is not Outcome.RATE_LIMITED
    assert s_after == pytest.approx(0.5 * 0.7 if sampled else 0.5)
    assert check.violations(fleet.engine) == []


def test_a_judgement_that_was_not_noted_is_not_made_up(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged_before(fleet)
    (task,) = submit(fleet.engine, fleet.now, to="bad")
    monkeypatch.setattr(Reservations, "note_penalty", lambda *_: None)  # it died before
    fleet.dispatch()
    fleet.deliver_all()
    (leaf,) = aborts(fleet.engine)
    assert {"agent", "f", "s"}.isdisjoint(leaf)
    (attempt,) = fleet.row(task)["attempts"]
    assert attempt["agent"] is not None
    assert attempt["f_before"] is None
    assert check.violations(fleet.engine) == []


def test_a_429_slows_down_a_lane_that_shares_something(fleet: Fleet) -> None:
    install(fleet.engine, fleet.now, agents=[agent("M", lane="mint"), agent("N", lane="mint")])
    fleet.context._read_at = 0.0  # as if a second had passed
    submit(fleet.engine, fleet.now, to="good")
    submit(fleet.engine, fleet.now, to="good", lane="mint")
    fleet.agents.next = [REPLIES[2], REPLIES[2]]
    claims = attempts.claim(
        fleet.engine, limit=9, hold={"default": 9, "mint": 9}, margin_s=2.0, now=fleet.now
    )
    send(RESERVE, [item.key for item in claims])
    fleet.deliver_all()
    assert fleet.at.paces(["default", "mint"], fleet.context.now_ms()).keys() == {"mint"}


def test_null_is_an_answer_like_any_other(fleet: Fleet) -> None:
    asked = intake.Submission(family="good", payload=None)
    (accepted,) = intake.submit(fleet.engine, "R", [asked], fleet.now)
    fleet.drain()
    row = fleet.row(accepted.task)
    assert (row["state"], row["attempt"], row["output"]) == ("COMMITTED", 1, None)


def test_a_result_that_cannot_be_kept_holds_up_no_neighbour(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, *others = submit(fleet.engine, fleet.now, 5, to="good")
    plain = commit.settlement

    def damaged(saga: Saga) -> Settlement:
        made = plain(saga)
        return replace(made, reason="\x00") if made.key.task == bad else made

    monkeypatch.setattr(commit, "settlement", damaged)
    fleet.dispatch()
    fleet.deliver_all()
    assert {fleet.row(task)["state"] for task in others} == {"COMMITTED"}
    (attempt,) = fleet.row(bad)["attempts"]
    assert (attempt["outcome"], attempt["reason"]) == ("garbage", "its result cannot be kept")
    assert fleet.in_flight() == 0


@pytest.mark.parametrize("ended_by", ["cancel", "expiry"])
def test_no_agent_works_for_a_task_that_has_ended(fleet: Fleet, ended_by: str) -> None:
    expires_at = fleet.now + timedelta(seconds=2)
    (task,) = submit(fleet.engine, fleet.now, to="good", expires_at=expires_at)
    (other,) = submit(fleet.engine, fleet.now, to="good")
    fleet.dispatch()
    assert fleet.transport.deliver(0) == RESERVE
    assert fleet.in_flight() == 2
    if ended_by == "cancel":
        intake.cancel(fleet.engine, task, fleet.now)
    else:
        fleet.now_s += 2.5
    fleet.deliver_all()
    assert {key.task for key in fleet.agents.calls} == {other}
    assert fleet.in_flight() == 0, "what it held is free again"
    fleet.drain()
    assert fleet.row(task)["state"] in ("CANCELLED", "EXPIRED")
    assert fleet.row(other)["state"] == "COMMITTED"


def test_an_answered_task_is_not_given_away_while_it_waits_to_be_paid(fleet: Fleet) -> None:
    (task,) = submit(fleet.engine, fleet.now, to="good")
    fleet.dispatch()
    for step in (RESERVE, EXECUTE, VALIDATE):
        assert fleet.transport.deliver(0) == step
    (commit_is_slow,) = fleet.transport.messages
    for _ in range(20):  # far beyond the claim, in steps shorter than the margin
        fleet.now_s += MARGIN_S * 0.9
        sweep.sweep()
        assert fleet.dispatch() == 0, "its claim is renewed"
    fleet.transport.messages[:] = [commit_is_slow]
    fleet.deliver_all()
    assert (fleet.row(task)["state"], fleet.row(task)["attempt"]) == ("COMMITTED", 1)


@pytest.mark.parametrize("lost", [RESERVE, EXECUTE, VALIDATE, COMMIT, ABORT])
def test_a_lost_message_is_made_up_by_the_sweeper(fleet: Fleet, lost: str) -> None:
    (task,) = submit(fleet.engine, fleet.now, to="bad" if lost == ABORT else "good")
    fleet.dispatch()
    while fleet.transport.messages[0][0] != lost:
        fleet.transport.deliver(0)
    fleet.transport.messages.clear()
    sweep.sweep()
    assert fleet.transport.messages == [], "its lease has not ended"
    fleet.drain()
    assert fleet.row(task)["state"] == ("QUARANTINED" if lost == ABORT else "COMMITTED")
    called = fleet.agents.calls.total()
    assert called == {EXECUTE: 1, ABORT: 2}.get(lost, 1), "an answer that is kept is used"


def test_a_worker_that_dies_with_the_call_blames_no_agent(fleet: Fleet) -> None:
    (task,) = submit(fleet.engine, fleet.now, to="good")
    fleet.agents.next = [None]
    fleet.dispatch()
    fleet.deliver_all()
    fleet.drain()
    lost, paid = fleet.row(task)["attempts"]
    assert (lost["outcome"], lost["agent"]) == ("lost", None)
    assert paid["state"] == "COMMITTED"
    assert fleet.row(task)["failures"] == 0


def test_redis_wiped_in_flight_loses_no_task(fleet: Fleet, redis_url: str) -> None:
    done = submit(fleet.engine, fleet.now, 4, to="good")
    fleet.dispatch()
    fleet.transport.deliver(0)
    connect(redis_url).flushall()
    fleet.drain()
    assert {fleet.row(task)["state"] for task in done} == {"COMMITTED"}
    assert check.violations(fleet.engine) == []


def test_judgement_survives_a_wiped_redis(fleet: Fleet, redis_url: str) -> None:
    submit(fleet.engine, fleet.now, to="bad")
    fleet.drain()
    before, _ = fleet.at.look(["A", "B", "C"])
    sweep.snapshot()
    connect(redis_url).flushall()
    submit(fleet.engine, fleet.now, to="good")
    fleet.dispatch()
    fleet.transport.deliver(0)
    after, _ = fleet.at.look(["A", "B", "C"])
    assert {name: found[1].f for name, found in after.items()} == {
        name: found[1].f for name, found in before.items()
    }


def test_a_task_without_an_agent_says_so_and_goes_on_when_there_is_one(fleet: Fleet) -> None:
    for name in "ABC":
        suspend(fleet.engine, name, suspended=True)
    (task,) = submit(fleet.engine, fleet.now, to="good")
    fleet.dispatch()
    fleet.deliver_all()
    row = fleet.row(task)
    assert row["wait"] == Wait.NO_AGENT
    assert (row["ready_at"] - fleet.now).total_seconds() == pytest.approx(5, abs=0.01)
    suspend(fleet.engine, "A", suspended=False)
    fleet.context._read_at = 0.0  # as if a second had passed
    fleet.drain()
    assert fleet.row(task)["state"] == "COMMITTED"


def test_a_client_without_credit_waits_and_its_neighbour_runs(fleet: Fleet) -> None:
    install(fleet.engine, fleet.now, clients=[client("poor", mint_b=0)], agents=AGENTS)
    (waits,) = submit(fleet.engine, fleet.now, to="good", by="poor", size=50)
    (runs,) = submit(fleet.engine, fleet.now, to="good", size=50)
    fleet.dispatch()
    fleet.deliver_all()
    assert fleet.row(waits)["wait"] == Wait.CREDIT
    assert fleet.row(runs)["state"] == "COMMITTED"


def test_messages_that_are_no_keys_harm_no_one(fleet: Fleet) -> None:
    (task,) = submit(fleet.engine, fleet.now, to="good")
    fleet.dispatch()
    ((_, message),) = fleet.transport.messages
    junk: list[Any] = [
        None,
        {},
        "x",
        [[1, 2]],
        [["x", 1]],
        [[task, 0]],
        [[task, True, 3]],
        [[]] * 65,
    ]
    for nonsense in junk:
        for step in STEPS.values():
            step(nonsense)
    reserve.reserve([["junk"], *message])
    fleet.drain()
    assert fleet.row(task)["state"] == "COMMITTED"


def test_a_duplicate_reserve_message_does_not_overtake_the_attempt(fleet: Fleet) -> None:
    install(fleet.engine, fleet.now, clients=[client("rich", mint_b=100_000)], agents=AGENTS)
    # It fits on A alone, and once.
    (task,) = submit(fleet.engine, fleet.now, to="good", size=900, by="rich")
    fleet.dispatch()
    fleet.transport.deliver(0, keep=True)
    assert fleet.in_flight() == 1
    fleet.transport.deliver(0)
    assert fleet.row(task)["wait"] == Wait.ATTEMPT
    fleet.deliver_all()
    assert fleet.row(task)["state"] == "COMMITTED"
    assert fleet.agents.calls == {AttemptKey(task, 1): 1}


HOLDER = lanes.Ask(principal="alice", reason="by hand", lease_s=600.0)


def test_a_lane_that_changes_hands_before_a_reservation_calls_nobody(fleet: Fleet) -> None:
    (task,) = submit(fleet.engine, fleet.now, to="good")
    fleet.dispatch()
    taken = lanes.take(fleet.engine, "default", HOLDER, fleet.now)
    fleet.deliver_all()
    assert (fleet.row(task)["wait"], fleet.in_flight(), len(fleet.agents.calls)) == ("lane", 0, 0)
    assert lanes.grant(fleet.engine, "default", taken.token, fleet.now).drained
    assert fleet.dispatch() == 0
    lanes.release(fleet.engine, "default", taken.token, fleet.now)
    fleet.drain()
    assert fleet.row(task)["state"] == "COMMITTED"


def test_redis_alone_stops_a_reservation_under_an_old_token(fleet: Fleet) -> None:
    (task,) = submit(fleet.engine, fleet.now, to="good")
    fleet.dispatch()
    fleet.at.fence({"default": 2})
    fleet.deliver_all()
    assert (fleet.row(task)["wait"], fleet.in_flight(), len(fleet.agents.calls)) == ("lane", 0, 0)


def test_what_was_done_under_a_revoked_token_is_neither_paid_nor_blamed(fleet: Fleet) -> None:
    (task,) = submit(fleet.engine, fleet.now, to="good")
    fleet.dispatch()
    fleet.transport.deliver(0)  # reserve
    fleet.transport.deliver(0)  # execute: the agent has answered
    taken = lanes.take(fleet.engine, "default", HOLDER, fleet.now)
    assert not taken.drained
    lanes.grant(fleet.engine, "default", taken.token, fleet.now, force=True)
    fleet.deliver_all()
    row = fleet.row(task)
    assert (row["state"], row["failures"], row["losses"]) == ("INIT", 0, 0)
    assert [(item["outcome"], item["agent"]) for item in row["attempts"]] == [("fenced", None)]
    assert fleet.in_flight() == 0
    lanes.release(fleet.engine, "default", taken.token, fleet.now)
    fleet.drain()
    assert fleet.row(task)["state"] == "COMMITTED"
    assert audit(fleet.context).violations == []


def test_a_duplicate_reserve_message_puts_back_what_has_no_seat(fleet: Fleet) -> None:
    """Only who has a seat is kept: its neighbour in the same message waits."""
    install(fleet.engine, fleet.now, clients=[client("rich", mint_b=100_000)], agents=AGENTS)
    seated, waits = submit(fleet.engine, fleet.now, 2, to="good", size=900, by="rich")
    fleet.dispatch()
    fleet.transport.deliver(0, keep=True)
    assert fleet.row(waits)["wait"] == Wait.CAPACITY
    fleet.transport.deliver(0)
    assert [fleet.row(task)["wait"] for task in (seated, waits)] == [Wait.ATTEMPT, Wait.CAPACITY]


def test_a_reservation_that_nobody_came_for_counts_as_nothing(fleet: Fleet) -> None:
    (task,) = submit(fleet.engine, fleet.now, to="good")
    for _ in range(attempts.LOSSES_MAX + 1):
        fleet.dispatch()
        fleet.transport.deliver(0)
        fleet.now_s += 6.5 - MARGIN_S  # the lease is over soon, the claim is not
        for _ in range(sweep.RESUMES_MAX + 1):
            fleet.transport.messages.clear()  # the sweeper sends again, and again in vain
            fleet.now_s += MARGIN_S * 1.01
            sweep.sweep()
        fleet.deliver_all()
    row = fleet.row(task)
    assert (row["state"], row["failures"], row["losses"]) == ("INIT", 0, 0)
    assert [item["outcome"] for item in row["attempts"]] == ["unstarted"] * (
        attempts.LOSSES_MAX + 1
    )
    assert fleet.in_flight() == 0
    fleet.drain()
    assert fleet.row(task)["state"] == "COMMITTED"


def test_an_answer_outlasts_minutes_without_anybody_to_judge_it(fleet: Fleet) -> None:
    (task,) = submit(fleet.engine, fleet.now, to="good")
    fleet.dispatch()
    fleet.transport.deliver(0)  # reserve
    fleet.transport.deliver(0)  # execute: the agent has answered
    fleet.now_s += 6.5
    for _ in range(10 * sweep.RESUMES_MAX):
        fleet.transport.messages.clear()  # whoever validates is away
        fleet.now_s += MARGIN_S * 1.01
        sweep.sweep()
    fleet.deliver_all()
    row = fleet.row(task)
    assert (row["state"], row["attempt"], row["losses"]) == ("COMMITTED", 1, 0)


def test_a_million_late_tasks_do_not_end_a_thousand_at_a_time(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "EXPIRE_MAX", 2)
    late = submit(
        fleet.engine, fleet.now, 7, to="good", expires_at=fleet.now + timedelta(seconds=1)
    )
    fleet.now_s += 2
    sweep.sweep()
    assert {fleet.row(task)["state"] for task in late} == {"EXPIRED"}


def test_a_task_that_kills_its_workers_is_quarantined(fleet: Fleet) -> None:
    (task,) = submit(fleet.engine, fleet.now, to="good")
    for _ in range(attempts.LOSSES_MAX):
        fleet.agents.next = [None]
        fleet.dispatch()
        fleet.deliver_all()
        fleet.now_s += 6.5
        sweep.sweep()
        fleet.deliver_all()
    row = fleet.row(task)
    assert (row["state"], row["failures"], row["losses"]) == (
        "QUARANTINED", 0, attempts.LOSSES_MAX,
    )  # fmt: skip
    assert row["reason"] == sweep.LOST.reason


def test_a_broker_that_is_away_is_an_error_of_ours(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OperationalError("connection refused")

    monkeypatch.setattr(fleet.transport, "send_task", refuse)
    with pytest.raises(Unavailable, match="connection refused"):
        send(RESERVE, [AttemptKey("t", 1)])


def test_an_agent_that_was_resized_is_used_at_its_new_size(fleet: Fleet) -> None:
    (task,) = submit(fleet.engine, fleet.now, to="good")
    fleet.drain()
    sizes = {"A": 2000, "B": 300, "C": 500}
    resized = [replace(item, y_max=sizes[item.id]) for item in AGENTS]
    install(fleet.engine, fleet.now, agents=resized, families=FAMILIES)
    fleet.context._read_at = 0.0  # as if a second had passed
    (task,) = submit(fleet.engine, fleet.now, to="good", size=1500)
    fleet.drain()
    assert fleet.row(task)["agent"] == "A"
    board, _ = fleet.at.look(list(sizes))
    assert {name: pool.y_max_mt for name, (pool, _) in board.items()} == {
        name: size * MT for name, size in sizes.items()
    }
    assert board["A"][0].y_mt == 2000 * MT


def test_an_outage_of_the_conveyor_quarantines_nobody(fleet: Fleet) -> None:
    """Three claims end while no worker takes messages: nothing ever ran, nothing is poison."""
    (task,) = submit(fleet.engine, fleet.now, to="good")
    for _ in range(5):
        fleet.dispatch()
        fleet.transport.messages.clear()
        fleet.now_s += 60
        sweep.sweep()
    fleet.drain()
    assert fleet.row(task)["state"] == "COMMITTED"


def test_a_reply_that_kills_its_validator_is_given_up(fleet: Fleet) -> None:
    (task,) = submit(fleet.engine, fleet.now, to="good")
    fleet.dispatch()
    while fleet.row(task)["state"] == "INIT":
        fleet.transport.messages = [m for m in fleet.transport.messages if m[0] != VALIDATE]
        if fleet.transport.messages:
            fleet.transport.deliver(0)
        else:
            fleet.now_s += 1.5
            sweep.sweep()
            fleet.dispatch()
    assert fleet.row(task)["state"] == "QUARANTINED"
    assert fleet.in_flight() == 0


def test_a_family_newer_than_the_workers_registry_is_read(fleet: Fleet) -> None:
    fleet.context.registry()
    install(fleet.engine, fleet.now, agents=AGENTS, families=[family("new")])
    tasks_ = submit(fleet.engine, fleet.now, to="good") + submit(fleet.engine, fleet.now, to="new")
    fleet.dispatch()
    fleet.deliver_all()
    assert {fleet.row(task)["state"] for task in tasks_} == {"COMMITTED"}


def hand_over(fleet: Fleet, step: str, to: str) -> str:
    """A task of a new agent and a new family, from `step` on in the hands of a worker that has
    just read the registry without them. The task's id."""
    other = Context(
        engine=fleet.engine,
        reservations=fleet.at,
        lease_margin_s=MARGIN_S,
        clock=lambda: fleet.now_s,
    )
    other.registry()
    new = [family("new"), family("new-bad", validator={"type": "exact", "value": "never"})]
    install(fleet.engine, fleet.now, agents=[agent("new", k=1)], families=[*FAMILIES, *new])
    (task,) = submit(fleet.engine, fleet.now, to=to)
    fleet.dispatch()
    while fleet.transport.messages[0][0] != step:
        fleet.transport.deliver(0)
    bind(other)
    fleet.deliver_all()
    return task


@pytest.mark.parametrize("step", [EXECUTE, VALIDATE, COMMIT])
def test_what_is_newer_than_a_workers_registry_is_read(fleet: Fleet, step: str) -> None:
    task = hand_over(fleet, step, "new")
    assert (fleet.row(task)["state"], fleet.row(task)["agent"]) == ("COMMITTED", "new")
    pool, _ = fleet.at.look(["new"])[0]["new"]
    assert (pool.y_mt, pool.in_flight) == (1000 * MT, 0)


def test_an_agent_newer_than_the_validators_registry_is_judged(fleet: Fleet) -> None:
    task = hand_over(fleet, VALIDATE, "new-bad")
    (failed,) = fleet.row(task)["attempts"]
    assert (failed["agent"], failed["f_after"]) == ("new", 5.0)


def test_an_agent_newer_than_the_validators_registry_is_judged_in_a_known_family(
    fleet: Fleet,
) -> None:
    task = hand_over(fleet, VALIDATE, "bad")
    (failed,) = fleet.row(task)["attempts"]
    assert (failed["agent"], failed["f_after"]) == ("new", 5.0)


class Machine(RuleBasedStateMachine):
    """Any order of messages, losses, deaths, wipes and cancellations; then quiet."""

    engine: Engine
    redis_url = ""
    patch: pytest.MonkeyPatch
    clock_s = 0.0  # goes on from one run to the next: they share the ledger

    @initialize()
    def start(self) -> None:
        redis = connect(self.redis_url)
        redis.flushall()
        self.client = f"c{next(_names)}"
        self.fleet = Fleet(self.engine, Reservations(redis), type(self).clock_s)
        install(
            self.engine, self.fleet.now, clients=[client(self.client, mint_b=POOR_UB // UB)],
            agents=AGENTS, families=FAMILIES, params={"routing": {"seed": 1}},
        )  # fmt: skip
        self.patch.setattr(tasks.messages, "current_app", self.fleet.transport)
        self.patch.setattr(execute, "_loop", lambda: self.fleet.agents)
        for row in intake.task_list(self.engine, state="INIT", limit=1000):
            intake.cancel(self.engine, str(row["id"]), self.fleet.now)  # of a run that failed
        self.tasks: list[str] = []
        self.quoted: dict[AttemptKey, int] = {}
        self.ended: dict[str, str] = {}

    @rule(
        count=st.integers(1, 5),
        to=st.sampled_from(["good", "good", "bad"]),
        size=st.integers(1, 250),
    )
    def submit(self, count: int, to: str, size: int) -> None:
        self.tasks += submit(
            self.engine, self.fleet.now, count, to=to, size=size, by=self.client,
            expires_at=self.fleet.now + timedelta(seconds=120) if size % 5 == 0 else None,
        )  # fmt: skip

    @rule(pick=st.integers(0, 99), to=st.sampled_from(["good", "bad"]))
    def ask_others(self, pick: int, to: str) -> None:
        """Some agent that is at work has a part done by others."""
        keys = self.fleet.at.overdue(2**53, 100)
        sagas = [saga for saga in self.fleet.at.read(keys) if saga is not None]
        if sagas:
            saga = sagas[pick % len(sagas)]
            part = intake.Submission(family=to, payload={"n": pick}, size=1)
            with suppress(NotFound, Conflict):
                made = outsource(self.fleet.context, saga.agent, saga.work.key, [part])
                self.tasks += [item.task for item in made]

    @rule(limit=st.integers(1, 9))
    def dispatch(self, limit: int) -> None:
        self.fleet.dispatch(limit)

    @rule(pick=st.integers(0, 99), keep=st.sampled_from([False, False, False, True]))
    def deliver(self, pick: int, keep: bool) -> None:
        messages = self.fleet.transport.messages
        if not messages:
            return
        index = pick % len(messages)
        name, keys = messages[index]
        self.fleet.transport.deliver(index, keep=keep)
        if name == RESERVE:
            for saga in self.fleet.at.read([AttemptKey(*key) for key in keys]):
                if saga is not None:
                    self.quoted[saga.work.key] = saga.cost_ub

    @rule(pick=st.integers(0, 99))
    def lose(self, pick: int) -> None:
        if self.fleet.transport.messages:
            self.fleet.transport.messages.pop(pick % len(self.fleet.transport.messages))

    @rule(reply=st.sampled_from([*REPLIES[1:], None]))
    def next_call_ends_with(self, reply: Reply | None) -> None:
        self.fleet.agents.next.append(reply)

    @rule(seconds=st.sampled_from([0.1, 0.5, 2.0, 7.0]))
    def pass_time(self, seconds: float) -> None:
        self.fleet.now_s += seconds

    @rule()
    def sweep(self) -> None:
        sweep.sweep()

    @rule()
    def snapshot(self) -> None:
        sweep.snapshot()

    @rule(pick=st.integers(0, 99))
    def cancel(self, pick: int) -> None:
        if not self.tasks:
            return
        task = self.tasks[pick % len(self.tasks)]
        if self.fleet.row(task)["state"] == "INIT":
            intake.cancel(self.engine, task, self.fleet.now)

    @rule(told=st.booleans(), force=st.booleans())
    def take_the_lane(self, told: bool, force: bool) -> None:
        if lanes.lane(self.engine, "default", self.fleet.now).mode is lanes.Mode.CRON:
            found = lanes.take(self.engine, "default", HOLDER, self.fleet.now)
            lanes.grant(self.engine, "default", found.token, self.fleet.now, force=force)
            if told:  # else the holder died before it could tell Redis
                self.fleet.at.fence({"default": found.token})

    @rule(force=st.booleans())
    def give_the_lane_back(self, force: bool) -> None:
        self.fleet.give_back(force=force)

    @rule(pick=st.integers(0, 5))
    def wipe_redis(self, pick: int) -> None:
        if pick == 0:
            connect(self.redis_url).flushall()

    @invariant()
    def nothing_is_overdrawn(self) -> None:
        if not hasattr(self, "fleet"):
            return
        board, _ = self.fleet.at.look([item.id for item in AGENTS])
        for item in AGENTS:
            if item.id in board:
                pool = board[item.id][0]
                assert 0 < pool.y_mt <= item.y_max * MT
                assert 0 <= pool.in_flight <= item.slots
        assert balance_ub(self.engine, f"client:{self.client}") >= 0

    @invariant()
    def a_lane_has_one_holder_at_a_time(self) -> None:
        if not hasattr(self, "fleet"):
            return
        told = lanes.history(self.engine, "default", limit=5)[::-1]
        assert all(after["token"] == before["token"] + 1 for before, after in pairwise(told))
        began = [row for row in told if row["granted_at"] is not None]
        for before, after in pairwise(began):
            assert before["ended_at"] is not None
            assert before["ended_at"] <= after["granted_at"]

    @invariant()
    def what_ended_stays_ended(self) -> None:
        if not hasattr(self, "fleet") or not self.tasks:
            return
        for task, row in intake.task_rows(self.engine, self.tasks).items():
            if row["state"] != "INIT":
                assert self.ended.setdefault(task, row["state"]) == row["state"]

    def teardown(self) -> None:
        if not hasattr(self, "fleet"):
            return
        # Nobody has to wait for credit any more.
        minted(self.engine, f"client:{self.client}", RICH_UB, self.fleet.now)
        self.fleet.drain()
        self.what_ended_stays_ended()
        type(self).clock_s = self.fleet.now_s + 60
        rows = intake.task_rows(self.engine, self.tasks)
        assert set(rows) == set(self.tasks)
        spent_ub = 0
        for task, row in rows.items():
            assert TaskState(row["state"]) is not TaskState.INIT
            self._check_ended(task, row)
            if row["parent"] is None:
                spent_ub += row["cost_ub"] or 0
        assert balance_ub(self.engine, f"client:{self.client}") == POOR_UB + RICH_UB - spent_ub
        assert check.violations(self.engine) == []
        assert max(self.fleet.agents.calls.values(), default=1) == 1, "called twice"
        self._check_nothing_left()

    def _check_ended(self, task: str, row: dict[str, Any]) -> None:
        records = self.fleet.row(task)["attempts"]
        paid = [item for item in records if item["state"] == "COMMITTED"]
        if row["state"] == "COMMITTED":
            (record,) = paid
            key = AttemptKey(task, record["attempt"])
            assert record["cost_ub"] == row["cost_ub"]
            assert self.quoted.get(key, record["cost_ub"]) == record["cost_ub"]
            assert row["family"] == "good"
            return
        assert paid == []
        assert row["cost_ub"] is None

    def _check_nothing_left(self) -> None:
        board, credits = self.fleet.at.look([item.id for item in AGENTS], [f"client:{self.client}"])
        assert credits[f"client:{self.client}"].reserved_ub == 0
        for item in AGENTS:
            if item.id in board:
                pool = board[item.id][0]
                assert pool.in_flight == 0
                later_ms = self.fleet.context.now_ms() + 60_000
                assert pool.y_mt + refill_mt(pool, item, later_ms) == item.y_max * MT
        assert connect(self.redis_url).keys("saga:*") == []


def test_any_order_of_messages_ends_every_task_once(
    engine: Engine, redis_url: str, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    Machine.engine, Machine.redis_url, Machine.patch = engine, redis_url, monkeypatch
    Machine.clock_s = now.timestamp()
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=20,
            stateful_step_count=50,
            deadline=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
