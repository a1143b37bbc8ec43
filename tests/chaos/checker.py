"""The verdict on an installation that is quiet: C1-C5, C10 and C11, one named row per violation.

What the product can recompute by itself is asked of it (`workers.audit`, which asks
`ledger.check`), so that each formula exists once. What only an outsider knows is compared here:
what clients were told, what was quoted, how often an agent was called, how long it took.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import psycopg
from psycopg.rows import namedtuple_row

from ledger.attempts import LOSSES_MAX
from ledger.check import Violation
from ledger.model import AttemptKey
from scheduler.pool import MT, refill_mt
from tasks.context import Context
from workers.audit import audit


class Ending(NamedTuple):
    """What a client was told of a task that has ended."""

    state: str
    agent: str | None
    cost_ub: int | None
    output: Any


@dataclass(kw_only=True, slots=True)
class Ask:
    """A submission of `count` tasks, tried until it is answered if it has a key."""

    id: str
    client: str
    family: str
    size: int
    count: int
    keyed: bool
    expires_s: float | None
    told: list[str] | None = None


@dataclass(kw_only=True, slots=True)
class Record:
    """What the outside world knows, written down when it happened."""

    asks: dict[str, Ask] = field(default_factory=dict)
    endings: dict[str, Ending] = field(default_factory=dict)
    quotes: dict[AttemptKey, set[int]] = field(default_factory=lambda: defaultdict(set))
    calls: Counter[AttemptKey] = field(default_factory=Counter)
    found: list[Violation] = field(default_factory=list)  # contradictions seen on the way

    @property
    def tasks(self) -> list[str]:
        """All ids that clients hold."""
        return [task for ask in self.asks.values() for task in ask.told or []]

    def say(self, invariant: str, subject: str, violation: str) -> None:
        """Keep a violation that was seen before the end, once."""
        said = Violation(invariant=invariant, subject=subject, violation=violation)
        if said not in self.found:
            self.found.append(said)

    def accepted(self, ask: Ask, tasks: list[str]) -> None:
        """An answer to a submission; every answer to the same one must be the same."""
        if ask.told is not None and ask.told != tasks:
            self.say("C10", f"ask {ask.id}", f"was told {ask.told}, then {tasks}")
        ask.told = tasks

    def ended(self, task: str, ending: Ending) -> None:
        """A client saw the end of a task; nobody may ever see another."""
        before = self.endings.setdefault(task, ending)
        if before != ending:
            self.say("C10", f"task {task}", f"was told {before}, then {ending}")


ROWS = """
SELECT t.id::text, t.state, t.wait, t.attempt, t.failures, t.losses, t.family,
       r.agent, r.attempt AS paid_attempt, r.cost_ub, r.output,
       b.payload, b.payload->>'ask' AS ask, CAST(b.payload->>'n' AS integer) AS n,
       (SELECT count(*) FROM attempt a WHERE a.task = t.id AND a.state = 'COMMITTED') AS paid
FROM task t LEFT JOIN task_body b ON b.task = t.id LEFT JOIN task_result r ON r.task = t.id
ORDER BY b.payload->>'ask', CAST(b.payload->>'n' AS integer), t.id
"""


def verdict(
    owner: psycopg.Connection[Any],
    context: Context,
    record: Record,
    *,
    sagas: Sequence[str],
    max_attempts: Mapping[str, int],
) -> list[Violation]:
    """Every violation. An installation without a task proves nothing and is one itself.

    `owner` reads what is on record past the product, `context` is whole and without faults,
    `sagas` are the attempts that Redis still holds.
    """
    found = list(record.found)
    found += [_violation("C4", f"redis {key}", "the delta of an attempt is left") for key in sagas]
    rows = owner.cursor(row_factory=namedtuple_row).execute(ROWS).fetchall()
    if not rows or not record.asks:
        found.append(_violation("checker", "tasks", "there is none: nothing was checked"))
    found += _asked(rows, record)
    for row in rows:
        found += _task(row, record, max_attempts)
    for key, times in record.calls.items():
        if times > 1:
            found.append(_violation("C3", f"attempt {key}", f"its agent was called {times} times"))
    report = audit(context)
    found += report.violations
    if report.in_flight:
        said = f"{report.in_flight} attempts are in flight though all is quiet"
        found.append(_violation("C11", "redis", said))
    return found + list(_capacity(context))


def in_between(context: Context) -> Iterator[Violation]:
    """What holds at any instant: no agent has more work, or more capacity, than it is allowed."""
    agents = context.registry().agents
    pools, credits = context.reservations.look(list(agents), ["rich", "poor"])
    for name, (pool, _) in pools.items():
        if not 0 < pool.y_mt <= agents[name].y_max * MT:
            yield _violation("C5", f"agent {name}", f"{pool.y_mt} mt are free")
        if not 0 <= pool.in_flight <= agents[name].slots:
            yield _violation("C5", f"agent {name}", f"{pool.in_flight} slots are taken")
    for client, credit in credits.items():
        if credit.reserved_ub < 0:
            yield _violation("C4", f"client {client}", f"{credit.reserved_ub} µB are reserved")


def unfinished(owner: psycopg.Connection[Any], in_flight: int, quiet_s: float) -> list[Violation]:
    """C11: what is neither over nor waiting for something that it can name."""
    rows = owner.execute(
        "SELECT id::text, wait, attempt FROM task"
        " WHERE state = 'INIT' AND (wait IS NULL OR wait IN ('dispatch', 'attempt'))"
    ).fetchall()
    late = f"after {quiet_s:g} s without faults"
    found = [
        _violation("C11", f"task {task}", f"waits for {wait} in attempt {attempt} {late}")
        for task, wait, attempt in rows
    ]
    if in_flight:
        found.append(_violation("C11", "redis", f"{in_flight} attempts in flight {late}"))
    return found


def _asked(rows: list[Any], record: Record) -> Iterator[Violation]:
    """C10: each submission is there as it was answered; all of it, or none."""
    there: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        there[row.ask].append(row.id)
    for ask in record.asks.values():
        tasks = there.pop(ask.id, [])
        if ask.told is not None and tasks != ask.told:
            yield _violation("C10", f"ask {ask.id}", f"was told {ask.told}, on record: {tasks}")
        elif len(tasks) not in (0, ask.count):
            yield _violation("C10", f"ask {ask.id}", f"{len(tasks)} of {ask.count} are on record")
    for ask_id, tasks in there.items():
        yield _violation("C10", f"ask {ask_id}", f"nobody asked for {tasks}")


def _task(row: Any, record: Record, max_attempts: Mapping[str, int]) -> Iterator[Violation]:
    """C2, C3 and C10 of one task, beyond what `ledger.check` knows."""
    subject = f"task {row.id}"
    if row.state == "INIT":
        yield _violation("C3", subject, f"has not ended: waits for {row.wait}")
    if row.paid != (row.state == "COMMITTED"):
        yield _violation("C3", subject, f"is {row.state} with {row.paid} settled attempts")
    if row.state == "COMMITTED":
        yield from _settled(row, record)
    if (
        row.state == "QUARANTINED"
        and row.failures < max_attempts[row.family]
        and row.losses < LOSSES_MAX
    ):
        said = f"given up after {row.failures} failures and {row.losses} losses"
        yield _violation("C3", subject, said)
    told = record.endings.get(row.id)
    on_record = Ending(row.state, row.agent, row.cost_ub, row.output)
    if told is not None and told != on_record:
        yield _violation("C10", subject, f"was told {told}, on record: {on_record}")


def _settled(row: Any, record: Record) -> Iterator[Violation]:
    subject = f"task {row.id}"
    if row.paid_attempt != row.attempt:
        said = f"attempt {row.paid_attempt} was paid after attempt {row.attempt} had begun"
        yield _violation("C2", subject, said)
    quotes = record.quotes.get(AttemptKey(row.id, row.paid_attempt), set())
    if row.cost_ub not in quotes:
        yield _violation("C2", subject, f"paid {row.cost_ub} µB, quoted {sorted(quotes)}")
    if row.family == "bad" or row.output != row.payload:
        yield _violation("C2", subject, "was paid for a wrong answer")


def _capacity(context: Context) -> Iterator[Violation]:
    """C5 where capacity comes back by time, and what `audit` has no name for."""
    agents = context.registry().agents
    pools, _ = context.reservations.look(list(agents))
    for name, (pool, _) in pools.items():
        agent = agents[name]
        later_ms = context.now_ms() + 10**7
        full_mt = pool.y_mt + refill_mt(pool, agent, later_ms)
        if agent.refill_per_s and full_mt != agent.y_max * MT:
            yield _violation("C5", f"agent {name}", f"refills to {full_mt} mt")


def _violation(invariant: str, subject: str, violation: str) -> Violation:
    return Violation(invariant=invariant, subject=subject, violation=violation)
