"""Lanes while their holders stand still, die, replay old tokens and race: C6 holds.

At most one holder acts at any instant, and nothing is accepted under an old token. Rows M02, M03.
"""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

import tasks.execute
import tasks.reserve
from ledger import attempts, batches, intake, lanes
from ledger.errors import Conflict, LaneLost
from ledger.intake import Submission, Tenure
from ledger.lanes import GRACE_S, Ask, Ended, Mode
from ledger.model import LANE_DEFAULT, AttemptKey
from ledger.postings import Settled
from ledger.settle import settle
from scheduler.reservations import Reservations
from tasks.clock import _clock
from tasks.context import Context
from tasks.cron import _settle_lanes
from tests import makers
from tests.program import begun
from tests.servers import scratch
from tests.stack import SETTINGS, Stack, await_true, started
from tests.tenures import double_holders
from workers.demo.gated import GatedAgent

ROUNDS = 1000
LANE = LANE_DEFAULT
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
AHEAD_S = 2 * 3600.0


def history(engine: Engine) -> list[dict[str, Any]]:
    return lanes.history(engine, limit=100_000)


def asked(principal: str = "alice", **values: Any) -> Ask:
    return Ask(**{"principal": principal, "reason": "mint", "lease_s": 30.0, **values})


# The checker proves itself first ------------------------------------------------------------------


def tenure(token: int, begun: float | None, ended: float | None, **values: Any) -> dict[str, Any]:
    """A tenure from minute `begun` to minute `ended` after noon."""

    def at(minute: float | None) -> datetime | None:
        return None if minute is None else NOON + timedelta(minutes=minute)

    row = {"lane": "mint", "token": token, "asked_at": at(begun if begun is not None else 0)}
    row |= {"granted_at": at(begun), "ended_at": at(ended)}
    return row | {"ended": None if ended is None else "released"} | values


GOOD = [
    tenure(1, 0, 1),
    tenure(2, 1, 5),
    tenure(3, None, 6),
    tenure(4, 6, None),
]


def test_the_checker_has_nothing_to_say_of_a_good_history() -> None:
    assert double_holders([]) == []
    assert double_holders(reversed(GOOD)) == []
    assert double_holders([*GOOD, tenure(1, 0, None, lane="other")]) == []


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([GOOD[0], tenure(2, 0.5, 5), *GOOD[2:]], "tokens 1 and 2 held it at the same time"),
        ([*GOOD[:3], tenure(4, 4.9, None)], "tokens 2 and 4 held it at the same time"),
        ([tenure(1, 0, None), *GOOD[1:]], "tokens 1 and 2 held it at the same time"),
        ([tenure(1, 0, None), *GOOD[1:]], "token 1 is followed by another, and never ended"),
        ([*GOOD[:3], tenure(4, 6, 7)], "token 4 has ended, and nobody follows"),
        ([GOOD[0], *GOOD[2:]], "tokens do not grow by one: [1, 3, 4]"),
        ([GOOD[0], *GOOD], "tokens do not grow by one: [1, 1, 2, 3, 4]"),
        ([tenure(1, 2, 1), *GOOD[1:]], "token 1 ended before it began"),
        ([tenure(1, 0, 1, asked_at=NOON + timedelta(hours=1)), *GOOD[1:]], "began before it was"),
    ],
)
def test_the_checker_finds_what_was_planted(rows: Sequence[dict[str, Any]], said: str) -> None:
    assert said in "; ".join(double_holders(rows))


def test_the_checker_reads_the_ledger(engine: Engine, database_url: str, now: datetime) -> None:
    makers.install(engine, now)
    taken = lanes.take(engine, LANE, asked(), now)
    lanes.release(engine, LANE, taken.token, now + timedelta(seconds=2))
    assert double_holders(history(engine)) == []
    makers.plant(
        database_url,
        "UPDATE lane_tenure SET ended_at = ended_at + interval '1 s' WHERE token = 2",
    )
    (found,) = double_holders(history(engine))
    assert found == "default: tokens 2 and 3 held it at the same time"


# Cron and people at once --------------------------------------------------------------------------


@dataclass
class Race:
    """Two people and cron, who all start at the same instant, again and again.

    `inside`: who works in the lane at the moment, as they know themselves.
    """

    engine: Engine
    rounds: int
    inside: Counter[str] = field(default_factory=Counter)
    met: list[str] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)
    errors: list[BaseException] = field(default_factory=list)
    _guard: threading.Lock = field(default_factory=threading.Lock)

    def run(self) -> None:
        start = threading.Barrier(3)
        moves = {"alice": self._person, "bob": self._person, "cron": self._cron}
        threads = [
            threading.Thread(target=self._again, args=(start, who, move))
            for who, move in moves.items()
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self.errors:
            raise self.errors[0]

    def _again(self, start: threading.Barrier, who: str, move: Any) -> None:
        try:
            for _ in range(self.rounds):
                start.wait()
                move(who)
        except threading.BrokenBarrierError:
            pass
        except BaseException as error:
            self.errors.append(error)
            start.abort()

    def _person(self, who: str) -> None:
        try:
            found = lanes.take(self.engine, LANE, asked(who), datetime.now(UTC))
        except Conflict:
            self.seen["refused"] += 1
            return
        while not found.drained:
            self.seen["drained"] += 1
            found = lanes.grant(self.engine, LANE, found.token, datetime.now(UTC))
        self._enter(who)
        self._leave(who)
        lanes.release(self.engine, LANE, found.token, datetime.now(UTC))
        self.seen[who] += 1

    def _cron(self, who: str) -> None:
        lanes.settle_down(self.engine, datetime.now(UTC))
        keys = makers.claim(self.engine, datetime.now(UTC), limit=1, margin_s=60)
        for key in keys:
            self._enter(who)
            self._leave(who)
            paid = settle(self.engine, [makers.settlement(key, cost_ub=1)], now=datetime.now(UTC))
            assert paid[key] is Settled.PAID
            self.seen[who] += 1

    def _enter(self, who: str) -> None:
        with self._guard:
            self.inside[who] += 1
            here = [name for name, times in self.inside.items() if times]
            if len(here) > 1:
                self.met.append(" and ".join(here))
        time.sleep(0)  # let the others run

    def _leave(self, who: str) -> None:
        with self._guard:
            self.inside[who] -= 1


@pytest.mark.timeout(300)
def test_cron_and_two_people_at_a_barrier(engine: Engine, now: datetime) -> None:
    makers.install(engine, now, agents=[makers.agent(slots=100)])
    makers.submit(engine, now, count=ROUNDS)
    race = Race(engine, ROUNDS)
    race.run()
    assert race.met == []
    assert min(race.seen[who] for who in ("alice", "bob", "cron", "refused", "drained")) > 0, (
        race.seen
    )
    told = [row for row in history(engine) if row["lane"] == LANE]
    assert double_holders(told) == []
    people = Counter(row["principal"] for row in told if row["mode"] == Mode.MANUAL)
    assert people == {who: race.seen[who] for who in ("alice", "bob")}


# Old tokens ---------------------------------------------------------------------------------------


@pytest.fixture
def clock() -> dict[str, float]:
    """The hands of the clock: seconds that it is ahead."""
    return {"ahead_s": 0.0}


@pytest.fixture
def moved(engine: Engine, reservations: Reservations, clock: dict[str, float]) -> Context:
    """A process on a clock that the test moves; R, A and f are installed."""
    found = Context(
        engine=engine,
        reservations=reservations,
        lease_margin_s=1.0,
        clock=lambda: time.time() + clock["ahead_s"],
    )
    makers.install(engine, found.now())
    return found


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[AttemptKey]:
    """What the reserve step has passed on."""
    found: list[AttemptKey] = []
    monkeypatch.setattr(tasks.reserve, "send", lambda _, keys: found.extend(keys))
    return found


def reserved(context: Context, sent: list[AttemptKey]) -> AttemptKey:
    """An attempt of cron's that has a seat, and was not executed yet."""
    makers.submit(context.engine, context.now())
    (key,) = makers.claim(context.engine, context.now())
    tasks.reserve._reserve(context, [key])
    assert sent == [key]
    sent.clear()
    return key


def called(context: Context, key: AttemptKey) -> bool:
    """Whether a late message makes anybody call the agent."""
    return bool(tasks.execute._begin(context, [key], caller="late"))


def paid(context: Context, key: AttemptKey) -> Settled:
    return settle(context.engine, [makers.settlement(key)], now=context.now())[key]


def test_an_old_token_reserves_nothing(moved: Context, sent: list[AttemptKey]) -> None:
    """Neither when PostgreSQL is asked, nor when that was before and Redis alone is."""
    makers.submit(moved.engine, moved.now(), count=2)
    keys = makers.claim(moved.engine, moved.now())
    works = attempts.works(moved.engine, keys, moved.now())
    assert [(work.fence, work.fenced) for work in works] == [(1, False)] * 2
    taken = lanes.take(moved.engine, LANE, asked(), moved.now())
    moved.reservations.fence({LANE: taken.token})
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(attempts, "works", lambda *_: works[:1])  # read before the change
        tasks.reserve._reserve(moved, keys[:1])
    tasks.reserve._reserve(moved, keys[1:])
    assert sent == []
    assert moved.reservations.count_in_flight() == 0
    rows = intake.task_rows(moved.engine, [key.task for key in keys])
    assert {row["wait"] for row in rows.values()} == {"lane"}


def test_an_old_token_calls_nobody(
    moved: Context, sent: list[AttemptKey], clock: dict[str, float]
) -> None:
    """Its message stood in the queue until its claim had ended, and the lane is another's."""
    key = reserved(moved, sent)
    taken = lanes.take(moved.engine, LANE, asked(lease_s=60.0), moved.now())
    assert not taken.drained
    clock["ahead_s"] += 20
    assert lanes.grant(moved.engine, LANE, taken.token, moved.now()).drained
    assert not called(moved, key), "the agent is alice's"
    assert moved.reservations.count_in_flight() == 0
    lanes.release(moved.engine, LANE, taken.token, moved.now())
    (again,) = makers.claim(moved.engine, moved.now())
    assert again.task == key.task, "and its task is not forgotten"


def test_what_was_forced_out_calls_nobody(moved: Context, sent: list[AttemptKey]) -> None:
    key = reserved(moved, sent)
    taken = lanes.take(moved.engine, LANE, asked(), moved.now())
    lanes.grant(moved.engine, LANE, taken.token, moved.now(), force=True)
    assert not called(moved, key)
    lanes.release(moved.engine, LANE, taken.token, moved.now())
    (again,) = makers.claim(moved.engine, moved.now())
    assert (again.task, again.attempt) == (key.task, 2), "it did not wait for its old claim's end"


def test_what_drains_is_still_called(moved: Context, sent: list[AttemptKey]) -> None:
    key = reserved(moved, sent)
    lanes.take(moved.engine, LANE, asked(), moved.now())
    assert called(moved, key)
    assert paid(moved, key) is Settled.PAID


def test_an_old_token_settles_nothing(moved: Context) -> None:
    makers.submit(moved.engine, moved.now())
    (key,) = makers.claim(moved.engine, moved.now())
    taken = lanes.take(moved.engine, LANE, asked(), moved.now())
    lanes.grant(moved.engine, LANE, taken.token, moved.now(), force=True)
    before = makers.balance_ub(moved.engine, "client:R")
    for _ in range(2):
        assert paid(moved, key) is Settled.FENCED
    lanes.release(moved.engine, LANE, taken.token, moved.now())
    assert paid(moved, key) is Settled.FENCED, "cron's old token is not cron's new one"
    assert makers.balance_ub(moved.engine, "client:R") == before


def test_an_old_token_does_nothing_with_the_lane(moved: Context) -> None:
    engine, now = moved.engine, moved.now()
    old = lanes.take(engine, LANE, asked(), now).token
    lanes.release(engine, LANE, old, now)
    lanes.take(engine, LANE, asked("bob", serves=7), now)
    item = Submission(family="f", payload=1)
    for what in (
        lambda: lanes.renew(engine, LANE, old, now + timedelta(hours=1), now),
        lambda: lanes.grant(engine, LANE, old, now),
        lambda: lanes.grant(engine, LANE, old, now, force=True),
        lambda: lanes.release(engine, LANE, old, now),
        lambda: intake.submit(engine, "R", [item], now, Tenure(lane=LANE, token=old, batch=7)),
    ):
        with pytest.raises(LaneLost, match="token 2 is no longer valid: bob holds the lane"):
            what()
    assert lanes.lane(engine, LANE, now).until == now + timedelta(seconds=30)
    assert double_holders(history(engine)) == []


# Redis wiped, clocks moved ------------------------------------------------------------------------


def test_a_wiped_redis_lets_nobody_back_in(moved: Context, sent: list[AttemptKey]) -> None:
    """It knows no token any more; PostgreSQL does, and the first who comes teaches it again."""
    makers.submit(moved.engine, moved.now(), count=2)
    keys = makers.claim(moved.engine, moved.now())
    stale = attempts.works(moved.engine, keys[:1], moved.now())
    taken = lanes.take(moved.engine, LANE, asked(serves=7), moved.now())
    moved.reservations.fence({LANE: taken.token})
    moved.reservations._redis.flushall()
    tasks.reserve._reserve(moved, keys[1:])
    assert sent == []
    _settle_lanes(moved)  # as the beat has it done every other second
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(attempts, "works", lambda *_: stale)
        tasks.reserve._reserve(moved, keys[:1])
    assert sent == []
    assert lanes.grant(moved.engine, LANE, taken.token, moved.now()).drained
    lanes.release(moved.engine, LANE, taken.token, moved.now())
    assert lanes.lane(moved.engine, LANE, moved.now()).token == 3
    assert double_holders(history(moved.engine)) == []


def test_redis_wiped_between_the_look_and_the_seat(moved: Context, sent: list[AttemptKey]) -> None:
    """The worst case: a stale reading meets an empty Redis. It gets a seat, and nothing for it."""
    makers.submit(moved.engine, moved.now())
    keys = makers.claim(moved.engine, moved.now())
    stale = attempts.works(moved.engine, keys, moved.now())
    taken = lanes.take(moved.engine, LANE, asked(), moved.now())
    lanes.grant(moved.engine, LANE, taken.token, moved.now(), force=True)
    moved.reservations.fence({LANE: taken.token})
    moved.reservations._redis.flushall()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(attempts, "works", lambda *_: stale)
        tasks.reserve._reserve(moved, keys)
    assert sent == keys
    assert paid(moved, keys[0]) is Settled.FENCED
    assert not called(moved, keys[0])


@pytest.mark.parametrize("hours", [2, -2])
def test_a_clock_that_is_wrong_makes_nobody_a_second_holder(
    moved: Context, clock: dict[str, float], hours: float
) -> None:
    """It may cost a holder the lane, never share it; and the history stays in order."""
    engine, item = moved.engine, Submission(family="f", payload=1)
    alice = lanes.take(engine, LANE, asked(serves=7), moved.now())
    clock["ahead_s"] = hours * 3600
    changed = {found.lane for found in lanes.settle_down(engine, moved.now())}
    if hours > 0:
        assert changed == {LANE}
        bob = lanes.take(engine, LANE, asked("bob", serves=8), moved.now())
    else:
        assert changed == set()
        with pytest.raises(Conflict, match="held by alice"):
            lanes.take(engine, LANE, asked("bob", serves=8), moved.now())
        lanes.release(engine, LANE, alice.token, moved.now())
        bob = lanes.take(engine, LANE, asked("bob", serves=8), moved.now())
    clock["ahead_s"] = 0.0
    for token, batch in ((alice.token, 7), (alice.token, 8)):
        with pytest.raises(LaneLost):
            intake.submit(
                engine, "R", [item], moved.now(), Tenure(lane=LANE, token=token, batch=batch)
            )
    with suppress(LaneLost):  # by the right clock its lease may have ended long ago
        lanes.release(engine, LANE, bob.token, moved.now())
    assert lanes.lane(engine, LANE, moved.now()).mode is Mode.CRON
    assert double_holders(history(engine)) == []


def test_a_lane_taken_by_a_clock_that_was_ahead_comes_back(
    moved: Context, clock: dict[str, float]
) -> None:
    """Nobody waits two hours for a holder that died (C11)."""
    clock["ahead_s"] = AHEAD_S
    lanes.take(moved.engine, LANE, asked(), moved.now())
    clock["ahead_s"] = 0.0
    _clock(moved)
    _clock(moved)
    assert lanes.settle_down(moved.engine, moved.now()) == [], "its lease is as long as it was"
    clock["ahead_s"] = 36.0
    (back,) = lanes.settle_down(moved.engine, moved.now())
    assert (back.mode, back.drained) == (Mode.CRON, True)
    (mine,) = [row for row in history(moved.engine) if row["principal"] == "alice"]
    assert mine["ended"] == Ended.EXPIRED
    assert double_holders(history(moved.engine)) == []
    assert lanes.take(moved.engine, LANE, asked("bob"), moved.now()).drained


# Holders that stand still or die, on the whole stack ----------------------------------------------

CONFIG = """\
[[clients]]
id = "T"
mint = "100000000"
"""
LANE_CONFIG = """\
[[agents]]
id = "{lane}"
kind = "json"
url = "{url}"
lane = "{lane}"
y_max = 1000000
k = 1000000
slots = {slots}
tools = ["{lane}"]
[[families]]
id = "{lane}"
size = 10
deadline_s = 200
max_attempts = 5
tools = ["{lane}"]
validator = {{ type = "none" }}
"""
SLOTS = 4
GOOD_ANSWER = {"output": {"answer": 42}}


@dataclass(frozen=True, kw_only=True)
class Held:
    """A lane with one agent, which answers when told to, and the command that holds it."""

    lane: str
    gate: GatedAgent
    stack: Stack
    files: Path

    def submit(self) -> str:
        asked = [Submission(family=self.lane, payload=self.lane, lane=self.lane)]
        now = self.stack.context.now()
        return intake.submit(self.stack.context.engine, "T", asked, now)[0].task

    def batch(self, *words: str) -> AbstractContextManager[subprocess.Popen[str]]:
        """`clearlane batch` with these words, stopped at the end."""
        home = str(self.stack.home)
        return begun(SETTINGS, "batch", *words, "--as", "alice", "--json", "--data", home)

    def run(self) -> tuple[str, ...]:
        path = self.files / f"{self.lane}.jsonl"
        rows = [{"family": self.lane, "type": self.lane, "payload": n} for n in range(40)]
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        return ("run", "--lane", self.lane, "--file", str(path), "--client", "T", "--rate", "8/s")

    def now(self) -> lanes.Lane:
        return lanes.lane(self.stack.context.engine, self.lane, self.stack.context.now())

    def states(self) -> Counter[str]:
        """How many items of its batch are in each state."""
        rows = intake.task_list(self.stack.context.engine, client="T", limit=10_000)
        return Counter(row["state"] for row in rows if row["type"] == self.lane)


@pytest.fixture
def two() -> Iterator[tuple[Held, Held]]:
    names = ("press", "forge")
    with ExitStack() as opened:
        gates = [opened.enter_context(GatedAgent()) for _ in names]
        files = opened.enter_context(scratch())
        config = CONFIG + "".join(
            LANE_CONFIG.format(lane=name, url=gate.url, slots=SLOTS)
            for name, gate in zip(names, gates, strict=True)
        )
        (files / "fleet.toml").write_text(config)
        stack = opened.enter_context(started("T", "--config", str(files / "fleet.toml")))
        one, two = (
            Held(lane=name, gate=gate, stack=stack, files=files)
            for name, gate in zip(names, gates, strict=True)
        )
        yield one, two


@pytest.mark.timeout(400)
def test_holders_that_stand_still_or_die(two: tuple[Held, Held]) -> None:
    """Both leases end on their own clock: nothing is shortened here."""
    press, forge = two
    stack, engine = press.stack, press.stack.context.engine
    with press.batch(*press.run()) as stopped, forge.batch(*forge.run()) as killed:
        for held in two:
            await_true("calls are out", partial(_calls_out, held), 120)
        waits = forge.submit()
        stopped.send_signal(signal.SIGSTOP)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        accepted, lease = press.states(), forge.now().until
        for held in two:
            await_true("its lease is over", partial(_with_cron, held), 180)

        # Somebody else takes the lane, and will not wait for what is in flight there.
        bob = lanes.take(engine, "press", asked("bob", lease_s=600.0), stack.context.now())
        assert not bob.drained
        lanes.grant(engine, "press", bob.token, stack.context.now(), force=True)
        press.gate.release(GOOD_ANSWER)
        forge.gate.release(GOOD_ANSWER)
        await_true("all answers came", lambda: stack.in_flight() == 0)
        assert press.states() == accepted == Counter(INIT=accepted.total()), "nothing was settled"

        stopped.send_signal(signal.SIGCONT)
        out, err = stopped.communicate(timeout=120)
    assert stopped.returncode == 4, err
    assert json.loads(out)["state"] == "lost"
    assert "token 2 is no longer valid: bob holds the lane" in err
    assert press.states() == accepted, "and nothing was accepted"
    assert (press.now().token, press.now().principal) == (bob.token, "bob")

    # The lane of the one that died is cron's, and cron works.
    assert stack.ended([waits])[0]["state"] == "COMMITTED"
    told = [row for row in history(engine) if row["lane"] == "forge"]
    assert [(row["token"], row["principal"], row["ended"]) for row in told] == [
        (3, "beat", None), (2, "alice", "expired"), (1, "beat", "taken"),
    ]  # fmt: skip
    assert lease is not None
    assert told[0]["asked_at"] >= lease + timedelta(seconds=GRACE_S)
    # The command may have been killed before it submitted more than what was called at once.
    assert forge.states() == Counter(COMMITTED=SLOTS, INIT=forge.states().total() - SLOTS)

    lanes.release(engine, "press", bob.token, stack.context.now())
    for held, batch in zip(two, sorted(batches.batches(engine), key=_by_press), strict=True):
        with held.batch("resume", str(batch.id)) as resumed:
            _, err = resumed.communicate(timeout=200)
            assert resumed.returncode == 0, err
        assert held.states() == {"COMMITTED": 40}
    assert double_holders(history(engine)) == []
    stack.check()


def _calls_out(held: Held) -> bool:
    return held.gate.waiting == SLOTS


def _with_cron(held: Held) -> bool:
    return held.now().mode is Mode.CRON


def _by_press(kept: batches.Kept) -> bool:
    return kept.lane != "press"
