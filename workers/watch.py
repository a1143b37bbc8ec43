"""What a worker process notes about its steps: durations, log context, spans.

The steps know nothing of it. Celery says when a step begins and ends; the reservations, through
which every step learns and decides, say what became of each attempt.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import redis
import structlog

from ledger.errors import Unavailable
from ledger.model import AttemptKey, Reply, SagaState, Verdict
from scheduler.connection import connect
from scheduler.reservations import Reservations, Taken
from scheduler.router import Quote
from scheduler.saga import Saga
from scheduler.standing import Standing
from scheduler.step_times import StepTimes
from tasks.context import Context
from tasks.text import printable
from workers.tallies import SIZES, TIMES_US, Tallies
from workers.tracing import Tracing, submitted_ns, tracing

US = 1_000_000
CALLS_MAX = 100_000  # calls whose begin is remembered; beyond it the oldest gets no span

log = structlog.get_logger()


@dataclass(kw_only=True, slots=True)
class Running:
    """The step that runs in this thread, and what it has found out about its attempts."""

    step: str
    size: int  # attempts in its message
    start_ns: int  # since 1970
    mark_ns: int  # on the clock that never jumps
    agents: dict[AttemptKey, str] = field(default_factory=dict)
    outcomes: dict[AttemptKey, str] = field(default_factory=dict)


class Watch:
    """One per process. `tracing` None: no spans. `now` is the time that all processes share."""

    def __init__(
        self, tallies: Tallies, tracing: Tracing | None, now: Callable[[], datetime]
    ) -> None:
        self.tallies = tallies
        self._now = now
        self._tracing = tracing
        self._local = threading.local()
        self._calls: dict[AttemptKey, tuple[str, int]] = {}  # agent, begin in ns since 1970

    @property
    def running(self) -> Running | None:
        """The step of this thread."""
        found: Running | None = getattr(self._local, "running", None)
        return found

    def begin(self, task: str, args: Sequence[Any]) -> None:
        """A Celery task starts: until its end every line of the log names its attempts."""
        message = args[0] if args and isinstance(args[0], list) else []
        self._local.running = Running(
            step=task.rpartition(".")[2],
            size=len(message),
            start_ns=self._now_ns(),
            mark_ns=time.perf_counter_ns(),
        )
        structlog.contextvars.bind_contextvars(step=task)
        if message:
            structlog.contextvars.bind_contextvars(attempts=len(message), first=_named(message[0]))

    def end(self, *, failed: bool) -> None:
        """It has ended, in order or with an error that Celery has logged."""
        running = self.running
        if running is None:
            return
        took_us = (time.perf_counter_ns() - running.mark_ns) // 1000
        self._tally(running, took_us, failed)
        if self._tracing is not None:
            self._trace(self._tracing, running, running.start_ns + took_us * 1000)
        log.debug("step ended", took_s=took_us / 1e6, failed=failed)
        structlog.contextvars.clear_contextvars()
        self._local.running = None

    def close(self) -> None:
        """Hand over what is left; the process ends."""
        self.tallies.close()
        if self._tracing is not None:
            self._tracing.close()

    def began(self, sagas: Sequence[Saga]) -> None:
        """Calls that set out now; what comes back is noted in another thread."""
        if self._tracing is None:
            return
        now_ns = self._now_ns()
        for saga in sagas:
            self._calls[saga.work.key] = (saga.agent, now_ns)
        while len(self._calls) > CALLS_MAX:
            self._calls.pop(next(iter(self._calls)), None)

    def answered(self, replies: Mapping[AttemptKey, Reply]) -> None:
        """Replies that are kept."""
        now_ns = self._now_ns()
        for key, reply in replies.items():
            took_us = int(reply.latency_s * 1e6)
            self.tallies.observe("attempt_us:execute", took_us, TIMES_US)
            agent, start_ns = self._calls.pop(key, (None, now_ns - took_us * 1000))
            if self._tracing is not None:
                outcome = str(reply.outcome)
                self._tracing.step(
                    "execute", key, start_ns, now_ns, agent=agent, outcome=outcome
                )  # fmt: skip

    def settled(self, sagas: Sequence[Saga]) -> None:
        """Tasks that are paid: how long each took since its submission."""
        now_ns = self._now_ns()
        for saga in sagas:
            took_us = max(0, now_ns - submitted_ns(saga.work.key.task)) // 1000
            self.tallies.observe("settle_us", took_us, TIMES_US)

    def lost(self, sagas: Sequence[Saga]) -> None:
        """Attempts that were given up."""
        self.tallies.count("lost", len(sagas))
        for saga in sagas:
            task, attempt = saga.work.key
            log.warning("attempt lost", task=task, attempt=attempt, agent=saga.agent)

    def _now_ns(self) -> int:
        try:
            return int(self._now().timestamp() * US) * 1000
        except Unavailable:  # nobody has told the time yet
            return time.time_ns()

    def _tally(self, running: Running, took_us: int, failed: bool) -> None:
        step, tallies = running.step, self.tallies
        tallies.observe(f"chunk_us:{step}", took_us, TIMES_US)
        if failed:
            tallies.count(f"failed:{step}")
        if running.size:
            tallies.observe(f"chunk_size:{step}", running.size, SIZES)
            if step != "execute":  # its attempts take as long as their calls
                tallies.observe(f"attempt_us:{step}", took_us, TIMES_US, running.size)

    def _trace(self, tracing: Tracing, running: Running, end_ns: int) -> None:
        for key, outcome in running.outcomes.items():
            agent = running.agents.get(key)
            if running.step == "reserve" and key.attempt == 1:
                tracing.submitted(key.task, running.start_ns)
            tracing.step(
                running.step, key, running.start_ns, end_ns, agent=agent, outcome=outcome
            )  # fmt: skip


class Watched(Reservations):
    """Reservations that tell a watch what the running step learns and decides."""

    def __init__(self, client: redis.Redis, watch: Watch) -> None:
        super().__init__(client)
        self._watch = watch

    def reserve(self, quotes: Sequence[Quote], **given: Any) -> list[Taken]:
        """As `Reservations.reserve`."""
        answers = super().reserve(quotes, **given)
        for quote, taken in zip(quotes, answers, strict=True):
            if taken is Taken.OK:
                self._note(quote.work.key, quote.agent.id, "reserved")
        return answers

    def read(self, keys: Sequence[AttemptKey]) -> list[Saga | None]:
        """As `Reservations.read`."""
        sagas = super().read(keys)
        running = self._watch.running
        if running is not None:
            for key, saga in zip(keys, sagas, strict=True):
                if saga is not None:
                    running.agents[key] = saga.agent
                elif running.step == "reserve":
                    running.outcomes[key] = "no_seat"
        return sagas

    def begin(self, keys: Sequence[AttemptKey], caller: str, now_ms: int) -> list[Saga]:
        """As `Reservations.begin`."""
        sagas = super().begin(keys, caller, now_ms)
        self._watch.began(sagas)
        return sagas

    def answer(self, replies: Mapping[AttemptKey, Reply], now_ms: int) -> list[bool]:
        """As `Reservations.answer`."""
        kept = super().answer(replies, now_ms)
        self._watch.answered(
            {key: reply for (key, reply), mine in zip(replies.items(), kept, strict=True) if mine}
        )
        return kept

    def judge(
        self, verdicts: Mapping[AttemptKey, Verdict], agents: Sequence[str]
    ) -> tuple[list[bool], dict[str, Standing]]:
        """As `Reservations.judge`."""
        decided, standings = super().judge(verdicts, agents)
        for (key, verdict), mine in zip(verdicts.items(), decided, strict=True):
            if mine:
                self._note(key, None, "passed" if verdict.passed else "failed")
                if not verdict.passed:
                    log.debug(
                        "attempt failed", task=key.task, attempt=key.attempt, reason=verdict.reason
                    )
        return decided, standings

    def give_up(self, sagas: Sequence[Saga], verdict: Verdict) -> list[bool]:
        """As `Reservations.give_up`."""
        done = super().give_up(sagas, verdict)
        lost = [saga for saga, mine in zip(sagas, done, strict=True) if mine]
        self._watch.lost(lost)
        for saga in lost:
            self._note(saga.work.key, saga.agent, "lost")
        return done

    def release(self, sagas: Sequence[Saga], *, settled: bool) -> None:
        """As `Reservations.release`."""
        super().release(sagas, settled=settled)
        if settled:
            self._watch.settled(sagas)
        for saga in sagas:
            failed = "aborted" if saga.state is SagaState.FAILED else "refused"
            self._note(saga.work.key, saga.agent, "committed" if settled else failed)

    def _note(self, key: AttemptKey, agent: str | None, outcome: str) -> None:
        running = self._watch.running
        if running is not None:
            running.outcomes[key] = outcome
            if agent is not None:
                running.agents[key] = agent


def watch_over(context: Context, redis_url: str, environment: Mapping[str, str]) -> Watch:
    """Watch the steps that will work with `context`. Raises BadInput as `tracing` does."""
    client = connect(redis_url)
    watch = Watch(Tallies(StepTimes(client)), tracing(environment), context.now)
    context.reservations = Watched(client, watch)
    watch.tallies.start()
    return watch


def _named(item: Any) -> str:
    """An attempt of a message for people; messages may hold anything."""
    return printable(":".join(map(str, item)) if isinstance(item, list) else str(item), 60)
