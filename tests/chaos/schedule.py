"""A schedule: from one seed, what clients ask, what fails, and in which order all of it happens.

`play` runs a seed on a stage: first a number of actions with faults on, then, with faults off,
until all is quiet, then the verdict. Each seed switches some kinds of fault on and others off, so
that deep runs of one kind happen as well as mixtures.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ledger import attempts, intake
from ledger.check import Violation
from ledger.model import Outcome, Reply
from tasks.call import Call
from tests.chaos.checker import Ask, unfinished
from tests.chaos.faults_inprocess import BEFORE, PG, Away, Crash
from tests.chaos.schedule_messages import downgraded, garbled
from tests.chaos.schedule_stage import (
    CLOCK_S,
    DEADLINE_S,
    MARGIN_S,
    QUIET_S,
    SWEEP_S,
    Stage,
)
from tests.chaos.schedule_world import Message, Process, World, echo
from tests.makers import minted

ACTIONS = (10, 34)
RIVALS = 3  # points in a row at which somebody else acts
LATE = 3  # old messages that come again after the end
POINTS_MAX = 10  # how many writes away a planned fault may be
RELIEF_UB = 10**12  # with faults off, nobody has to wait for credit
JUMP_S = 7200.0
ROUNDS_MAX = 50  # claims at one instant: whoever needs more goes round in circles
GIVE_UP_S = 104.0  # later still, even who waits for a reason is through
# After a clock was ahead: `cron.clock` comes by, and leaves alone what lies ahead by no more than
# the longest pause and a margin of doubt.
AFTER_JUMP_S = CLOCK_S + 2 * 30.0 + DEADLINE_S + 2 * MARGIN_S

USUAL = {"ask": 6, "look": 2, "dispatch": 7, "deliver": 22, "answer": 9, "sweep": 3, "wait": 4}
FAULTS = {
    "again": 3, "cancel": 2, "snapshot": 2, "clock": 1, "lose": 2, "twice": 3, "garble": 2,
    "downgrade": 1, "kill": 2, "wipe": 1, "skew": 1, "crash": 5, "away": 5, "rival": 6,
    "wipe_at": 1,
}  # fmt: skip
REPLIES = [
    Reply(outcome=Outcome.TIMEOUT, latency_s=DEADLINE_S, detail="no complete answer"),
    Reply(outcome=Outcome.RATE_LIMITED, latency_s=0.1, retry_after_s=2.0),
    Reply(outcome=Outcome.RATE_LIMITED, latency_s=0.1),
    Reply(outcome=Outcome.REFUSED, latency_s=0.1, detail="HTTP 400"),
    Reply(outcome=Outcome.ERROR, latency_s=0.1, detail="HTTP 500"),
    Reply(outcome=Outcome.GARBAGE, latency_s=0.1, detail="the answer is not JSON"),
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Played:
    """What became of one seed."""

    seed: int
    tasks: int
    violations: list[Violation]
    trace: list[str]
    struck: Counter[str]  # which faults there were, and where


def play(stage: Stage, seed: int) -> Played:
    """Reset the stage, play the seed, drive to quiet, judge."""
    stage.reset()
    random.seed(seed)  # the pauses of a step that waits for a server have a jitter
    schedule = Schedule(World(stage, seed))
    found = schedule.run()
    world = schedule.world
    return Played(
        seed=seed,
        tasks=len(world.record.tasks),
        violations=found,
        trace=world.trace,
        struck=schedule.struck,
    )


class Schedule:
    """One seed being played."""

    def __init__(self, world: World) -> None:
        self.world, self.rng, self.stage = world, world.rng, world.stage
        on = {name: weight for name, weight in FAULTS.items() if self.rng.random() < 0.5}
        self._weights = USUAL | on
        self._failing = self.rng.choice([0.0, 0.2, 0.6])
        self._armed: list[Any] = []  # [points left, fault] of the fault that is planned
        self._last: Message | None = None
        self._past: list[Message] = []
        self._asks = 0
        self._jump_s = 0.0
        self._rivals = 0
        self.struck: Counter[str] = Counter()

    def run(self) -> list[Violation]:
        """Faults, then quiet, then the verdict."""
        world = self.world
        with world.playing():
            self.stage.tap.at = self._at
            self._ask()
            for number in range(self.rng.randint(*ACTIONS)):
                self._act()
                if number % 3 == 0:
                    world.look_around()
            self.stage.tap.at = lambda _kind, _side: None
            relieve(world)
            late = settle_down(world)
            self._come_late()
            if world.conveyor or _left(world):
                late += settle_down(world)
            return late + world.judged()

    def _come_late(self) -> None:
        """All is over: old messages and late wishes must not change that."""
        self._look()
        for _ in range(LATE):
            if self._past:
                self.world.deliver(self._process(), self.rng.choice(self._past))
        self._cancel()

    # Actions -------------------------------------------------------------------------------------

    def _act(self) -> None:
        names = list(self._weights)
        (name,) = self.rng.choices(names, [self._weights[name] for name in names])
        if name in FAULTS:
            self.struck[name] += 1
        act: Callable[[], None] = getattr(self, f"_{name}")
        act()

    def _process(self) -> Process:
        return self.rng.choice(self.world.processes)

    def _ask(self) -> None:
        self._asks += 1
        expires_s = self.world.now_s + self.rng.choice([3, 30, 120])
        ask = Ask(
            id=f"a{self._asks}",
            client=self.rng.choice(["rich", "rich", "poor"]),
            family=self.rng.choice(["good", "good", "bad"]),
            size=self.rng.choice([10, 100, 200, 450]),
            count=self.rng.choice([1, 1, 2, 3]),
            keyed=self.rng.random() < 0.6,
            expires_s=expires_s if self.rng.random() < 0.2 else None,
        )
        self.world.ask(self._process(), ask)

    def _again(self) -> None:
        keyed = [ask for ask in self.world.record.asks.values() if ask.keyed]
        if keyed:
            self.world.ask(self._process(), self.rng.choice(keyed))

    def _cancel(self) -> None:
        if tasks := self.world.record.tasks:
            self.world.cancel(self._process(), self.rng.choice(tasks))

    def _look(self) -> None:
        self.world.look(self.world.record.tasks)

    def _dispatch(self) -> None:
        self.world.dispatch(self._process())

    def _sweep(self) -> None:
        self.world.sweep(self._process())

    def _clock(self) -> None:
        self.world.set_clock(self._process())

    def _snapshot(self) -> None:
        self.world.snapshot(self._process())

    def _deliver(self, *, keep: bool = False) -> None:
        conveyor = self.world.conveyor
        if not conveyor:
            self.world.dispatch(self._process())
            return
        index = 0 if self.rng.random() < 0.7 else self.rng.randrange(len(conveyor))
        self._last = conveyor[index] if keep else conveyor.pop(index)
        self._past.append(self._last)
        self.world.deliver(self._process(), self._last)

    def _twice(self) -> None:
        self._deliver(keep=True)

    def _lose(self) -> None:
        conveyor = self.world.conveyor
        if conveyor:
            step, body = conveyor.pop(self.rng.randrange(len(conveyor)))
            self.world.note("lost:", step, body)

    def _garble(self) -> None:
        self._spoil(garbled)

    def _downgrade(self) -> None:
        self._spoil(downgraded)

    def _spoil(self, spoil: Callable[[Any, random.Random], Any]) -> None:
        conveyor = self.world.conveyor
        if conveyor:
            step, body = conveyor.pop(self.rng.randrange(len(conveyor)))
            self.world.deliver(self._process(), (step, spoil(body, self.rng)))

    def _answer(self) -> None:
        busy = [process for process in self.world.processes if process.out]
        if busy:
            process = self.rng.choice(busy)
            self.rng.shuffle(process.out)
            self.world.answer(process, self.rng.randint(1, 4), self._reply)
        else:
            self._deliver()

    def _reply(self, call: Call) -> Reply:
        if self.rng.random() < self._failing:
            return self.rng.choice(REPLIES)
        return echo(call)

    def _wait(self) -> None:
        self.world.now_s += self.rng.choice([0.01, 0.1, 0.5, 2.0, 7.0])

    def _kill(self) -> None:
        process = self._process()
        self.world.note(process.name, "is killed")
        process.start()

    def _wipe(self) -> None:
        self.world.note("Redis is wiped")
        self.stage.wipe()

    def _skew(self) -> None:
        """The one clock, PostgreSQL's, jumps; a process notices a little later than another."""
        world = self.world
        if self.rng.random() < 0.5:
            self._jump_s = self.rng.choice([-JUMP_S, 0.0, JUMP_S])
        process = self._process()
        process.skew_s = self._jump_s
        world.was_ahead = world.was_ahead or process.skew_s > 0
        world.note(process.name, "clock off by", process.skew_s)

    # Faults in the middle of something -----------------------------------------------------------

    def _crash(self) -> None:
        self._arm("crash")

    def _away(self) -> None:
        self._arm("away")

    def _rival(self) -> None:
        self._arm("rival")

    def _wipe_at(self) -> None:
        self._arm("wipe")

    def _arm(self, fault: str) -> None:
        self._armed = [self.rng.randint(1, POINTS_MAX), fault]
        self._rivals = RIVALS

    def _at(self, kind: str, side: str) -> None:
        if not self._armed:
            return
        self._armed[0] -= 1
        fault = self._armed[1]
        # Inside a transaction a rival would wait for us, and we for it.
        if self._armed[0] > 0 or (fault == "rival" and (kind, side) == (PG, BEFORE)):
            return
        self._armed = []
        self.struck[f"{fault} {side} {kind}"] += 1
        self.world.note("   at", side, kind, fault)
        if fault == "crash":
            raise Crash
        if fault == "away":
            raise Away
        if fault == "wipe":
            self.stage.wipe()
        else:
            self._interfere()
            self._rivals -= 1
            if self._rivals > 0:  # and again at the next one
                self._armed = [1, fault]

    def _interfere(self) -> None:
        """Somebody else acts between two writes of whoever is at work."""
        others = [item for item in self.world.processes if item is not self.world.at_work]
        process = self.rng.choice(others)
        match self.rng.randrange(8):
            case 0 | 1 | 7 if self._last is not None:
                self.world.deliver(process, self._last)
            case 2 | 3 if self.world.conveyor:
                self.world.deliver(process, self._like_last())
            case 4:
                self.world.sweep(process)
            case 5:
                self._cancel()
            case _:
                self.world.dispatch(process)
        self.world.look_around()

    def _like_last(self) -> Message:
        """Another message of the step at hand if there is one: two workers, one kind of work."""
        conveyor = self.world.conveyor
        alike = [index for index, message in enumerate(conveyor) if self._is_like_last(message)]
        return conveyor.pop(self.rng.choice(alike or range(len(conveyor))))

    def _is_like_last(self, message: Message) -> bool:
        return self._last is not None and message[0] == self._last[0]


def relieve(world: World) -> None:
    """Faults off: clocks right, credit for everybody, and every question asked until answered."""
    world.note("faults are off")
    for process in world.processes:
        process.skew_s = 0.0
    minted(world.stage.engine, "client:poor", RELIEF_UB, world.processes[0].context.now())
    for ask in list(world.record.asks.values()):
        if ask.keyed:
            world.ask(world.processes[0], ask)


def settle_down(world: World) -> list[Violation]:
    """Drive until everything has ended, or never will; what is late by C11."""
    start_s, late = world.now_s, list[Violation]()
    quiet_s = QUIET_S + (AFTER_JUMP_S if world.was_ahead else 0.0)
    while True:
        _advance(world)
        if not _left(world):
            return late
        if not late and world.now_s >= start_s + quiet_s:
            in_flight = world.watcher.reservations.count_in_flight()
            late = unfinished(world.stage.owner, in_flight, quiet_s)
        if world.now_s >= start_s + quiet_s + GIVE_UP_S:
            return late
        world.now_s = _next_s(world, start_s, quiet_s)


def _advance(world: World) -> None:
    """Everything that can happen at this instant happens."""
    here = world.processes[0]
    world.sweep(here)
    if world.was_ahead:
        world.set_clock(here)
    for _ in range(ROUNDS_MAX):
        while world.conveyor:
            world.deliver(here, world.conveyor.pop(0))
        busy = [process for process in world.processes if process.out]
        for process in busy:
            world.answer(process, len(process.out), echo)
        if not busy and not world.conveyor:
            world.dispatch(here)
            if not world.conveyor:
                return


def _left(world: World) -> bool:
    waiting = any(row["state"] == "INIT" for row in intake.task_counts(world.stage.engine))
    return waiting or world.watcher.reservations.count_in_flight() > 0


def _next_s(world: World, start_s: float, quiet_s: float) -> float:
    """The next instant at which the sweeper, or a task that waits, has something to do."""
    tick_s = world.now_s + (SWEEP_S if world.now_s < start_s + QUIET_S else CLOCK_S)
    ready = attempts.next_ready(world.stage.engine, world.processes[0].context.now())
    if ready is not None and ready.timestamp() > world.now_s:
        tick_s = min(tick_s, ready.timestamp() + 0.001)
    if world.now_s < start_s + quiet_s:
        tick_s = min(tick_s, start_s + quiet_s)
    return max(tick_s, world.now_s + 0.001)
