"""One installation in one process: processes that die, a conveyor that cannot be trusted, a clock.

The steps, the dispatcher, the sweeper and the intake are the product's, called as its processes
call them; what is ours is everything around them, and all of it follows one seed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from ledger import intake
from ledger.check import Violation
from ledger.errors import Conflict, Unavailable
from ledger.model import AttemptKey, Outcome, Reply
from scheduler.reservations import Reservations, Taken
from scheduler.router import Quote
from tasks import abort, clock, commit, execute, reserve, sweep, validate
from tasks.call import Call
from tasks.context import Context, bind
from tasks.messages import ABORT, COMMIT, EXECUTE, RESERVE, VALIDATE
from tests.chaos.checker import Ask, Ending, Record, in_between, verdict
from tests.chaos.faults_inprocess import Crash, TappedTransport, seams, seeded_ids
from tests.chaos.schedule_stage import MARGIN_S, MAX_ATTEMPTS, START_S, Stage
from workers.dispatcher import Dispatcher

STEPS: dict[str, Callable[[Any], None]] = {
    RESERVE: reserve.reserve,
    EXECUTE: execute.execute,
    VALIDATE: validate.validate,
    COMMIT: commit.commit,
    ABORT: abort.abort,
}
Message = tuple[str, Any]


class Spy(Reservations):
    """Reservations that write down each price before it is taken."""

    def __init__(self, client: Any, world: World) -> None:
        super().__init__(client)
        self._world = world

    def reserve(self, quotes: Sequence[Quote], **values: Any) -> list[Taken]:
        for quote in quotes:
            self._world.tell(["quoted", *quote.work.key, quote.cost_ub])
        return super().reserve(quotes, **values)


class OneLook:
    """A listener for a dispatcher that is to look once."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher

    def wait(self, _timeout_s: float) -> list[tuple[str, str]]:
        self._dispatcher.stop(None)
        return []


class Process:
    """What one worker process holds in memory: all of it is gone when it dies."""

    def __init__(self, world: World, name: str) -> None:
        self._world, self.name = world, name
        self.skew_s = 0.0
        self.start()

    def start(self) -> None:
        """A fresh process of the same name."""
        self.out: list[Call] = []
        self.context = Context(
            engine=self._world.stage.engine,
            reservations=self._world.reservations,
            lease_margin_s=MARGIN_S,
            clock=lambda: self._world.now_s + self.skew_s,
        )


class Caller:
    """The execute step's loop: takes calls, and holds them until the schedule lets them answer."""

    def __init__(self, world: World) -> None:
        self._world = world

    def start(self, calls: Sequence[Call]) -> None:
        for call in calls:
            self._world.tell(["called", *call.key])
        self._world.at_work.out += calls


class World:
    """All that exists in one schedule. Use it inside `playing`."""

    def __init__(self, stage: Stage, seed: int, processes: int = 3) -> None:
        self.stage = stage
        self.rng = random.Random(seed)
        self.record = Record()
        self.now_s = START_S
        self.conveyor: list[Message] = []
        self.tell: Callable[[list[Any]], None] = self.hear
        self.reservations = Spy(stage.redis, self)
        self.processes = [Process(self, f"p{number}") for number in range(processes)]
        self.at_work = self.processes[0]
        self.watcher = stage.watcher(lambda: self.now_s)
        self.trace: list[str] = []
        self.was_ahead = False  # a process has worked by a clock that was ahead

    @contextmanager
    def playing(self) -> Iterator[None]:
        """The product works in this world while the block runs."""
        with ExitStack() as stack:
            transport = TappedTransport(
                self.stage.tap, lambda step, message: self.tell(["sent", step, message])
            )
            caller = Caller(self)
            stack.enter_context(seams(transport, lambda: caller, self.nap))
            stack.enter_context(seeded_ids(random.Random(self.rng.random())))
            try:
                yield
            finally:
                self.stage.tap.at = lambda _kind, _side: None

    def hear(self, fact: list[Any]) -> None:
        """Something that the world outside the processes knows from now on. Plain JSON."""
        match fact:
            case ["sent", step, body]:
                self.conveyor.append((step, body))
            case ["quoted", task, attempt, cost_ub]:
                self.record.quotes[AttemptKey(task, attempt)].add(cost_ub)
            case ["called", task, attempt]:
                self.record.calls[AttemptKey(task, attempt)] += 1
            case ["asked", ask]:
                self.record.asks.setdefault(ask["id"], Ask(**ask))
            case ["accepted", ask, tasks]:
                self.record.accepted(self.record.asks[ask], tasks)
            case ["ended", task, *ending]:
                self.record.ended(task, Ending(*ending))
            case ["said", *violation]:
                self.record.say(*violation)
            case _:
                raise AssertionError(f"nobody knows what {fact} means")

    def rejoin(self) -> None:
        """After a fork: connections of our own, and processes that use them."""
        self.stage.connect()
        self.reservations = Spy(self.stage.redis, self)
        for process in self.processes:
            out = process.out
            process.start()
            process.out = out

    def nap(self, seconds: float) -> None:
        """A step that waits for a server: time passes."""
        self.now_s += seconds

    def note(self, *words: object) -> None:
        """Keep what happened, for whoever replays the seed."""
        self.trace.append(f"{self.now_s - START_S:9.3f} {' '.join(map(str, words))}")

    # What a process does -------------------------------------------------------------------------

    def work(self, process: Process, doing: str, step: Callable[[], object]) -> None:
        """Let a process do something; a crash takes all it had in memory with it."""
        before, self.at_work = self.at_work, process
        bind(process.context)
        try:
            step()
        except Crash:
            self.note(process.name, "died in", doing)
            process.start()
        except Unavailable as error:
            self.note(process.name, "gave up", doing, error)
        except Exception as error:
            self.tell(["said", "step", doing, f"broke: {type(error).__name__}: {error}"])
        finally:
            self.at_work = before
            bind(before.context)

    def dispatch(self, process: Process) -> None:
        dispatcher = Dispatcher(process.context, lambda: 0)
        self.note(process.name, "dispatches")
        self.work(process, "dispatch", lambda: dispatcher._serve(OneLook(dispatcher)))  # type: ignore[arg-type]

    def deliver(self, process: Process, message: Message) -> None:
        step, body = message
        self.note(process.name, step, body)
        self.work(process, step, lambda: STEPS[step](body))

    def sweep(self, process: Process) -> None:
        self.note(process.name, "sweeps")
        self.work(process, "sweep", sweep.sweep)

    def set_clock(self, process: Process) -> None:
        self.note(process.name, "looks at the clock")
        self.work(process, "clock", clock.clock)

    def snapshot(self, process: Process) -> None:
        self.note(process.name, "keeps a snapshot")
        self.work(process, "snapshot", sweep.snapshot)

    def answer(self, process: Process, count: int, reply: Callable[[Call], Reply]) -> None:
        """The agents of up to `count` calls that are out answer."""
        calls, process.out = process.out[:count], process.out[count:]
        replies = {call.key: reply(call) for call in calls}
        self.note(
            process.name, "hears", [(key, str(said.outcome)) for key, said in replies.items()]
        )
        self.work(process, "forward", lambda: execute.forward(replies))

    # What clients do -----------------------------------------------------------------------------

    def ask(self, process: Process, ask: Ask) -> None:
        """Submit, for the first time or again."""
        ends = None if ask.expires_s is None else datetime.fromtimestamp(ask.expires_s, UTC)
        wanted = [
            intake.Submission(
                family=ask.family,
                payload={"ask": ask.id, "n": number},
                size=ask.size,
                expires_at=ends,
                idempotency_key=f"{ask.id}-{number}" if ask.keyed else None,
            )
            for number in range(ask.count)
        ]
        self.note("client", ask.client, "asks", ask)
        self.tell(["asked", asdict(ask)])

        def submit() -> None:
            now = process.context.now()
            said = intake.submit(self.stage.engine, ask.client, wanted, now)
            self.tell(["accepted", ask.id, [item.task for item in said]])

        self.work(process, "submit", submit)

    def cancel(self, process: Process, task: str) -> None:
        self.note("client cancels", task)

        def cancel() -> None:
            try:
                intake.cancel(self.stage.engine, task, process.context.now())
            except Conflict:
                return
            self.tell(["ended", task, "CANCELLED", None, None, None])

        self.work(process, "cancel", cancel)

    def look(self, tasks: Sequence[str]) -> None:
        """A client reads its tasks, and remembers what it is told of those that have ended."""
        rows: Mapping[str, Any] = intake.task_rows(self.stage.engine, tasks)
        for task in tasks:
            row = rows.get(task)
            if row is None:
                self.record.say("C10", f"task {task}", "was accepted and is not known")
            elif row["state"] != "INIT":
                seen = Ending(row["state"], row["agent"], row["cost_ub"], row["output"])
                self.record.ended(task, seen)

    # What is true in between ---------------------------------------------------------------------

    def look_around(self) -> None:
        """Check what holds at any instant."""
        self.record.found += [
            seen for seen in in_between(self.watcher) if seen not in self.record.found
        ]

    def judged(self) -> list[Violation]:
        """The checker's verdict on what there is now."""
        return verdict(
            self.stage.owner, self.watcher, self.record,
            sagas=self.stage.keys("saga:*"), max_attempts=MAX_ATTEMPTS,
        )  # fmt: skip


def echo(call: Call) -> Reply:
    """An honest agent."""
    return Reply(outcome=Outcome.OK, latency_s=0.1, output=call.payload)
