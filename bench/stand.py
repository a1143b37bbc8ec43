"""Clearlane on a stand: its own processes on an empty database and an empty Redis."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import psycopg
from sqlalchemy import Engine

from bench.processes import Children, require_alive, together
from bench.section import Bench
from ledger import check, db, intake, registry
from ledger.db import ENDED
from ledger.listen import Listener
from ledger.model import Agent, Family
from scheduler.connection import connect as connect_redis
from workers import stack
from workers.process import Process
from workers.settings import Settings, sqlalchemy_url

AGENTS = 4
SLOTS = 300
SUBMIT_MAX = 1_000  # tasks in one submission
POLL_S = 0.1
STALL_S = 300.0
ALONE_S = 10.0
WARM_TASKS = 500
PROFILED = (*(f"{pool}1" for pool in stack.POOLS), "dispatcher", "beat")
LEFT_OUT = ("flower", "gateway")  # nobody looks, and tasks come in through the ledger
CLIENT = "bench"
FAMILY = "echo"
SUBMISSION = intake.Submission(family=FAMILY, payload={"n": 1})


@dataclass(frozen=True, kw_only=True, slots=True)
class Stand:
    """The running product and its database. url: `postgresql://…` of that database."""

    bench: Bench
    url: str
    engine: Engine
    children: Children

    def warm(self) -> None:
        """Let every process have done everything once."""
        self.stage(WARM_TASKS)
        self.drain()

    def stage(self, tasks: int) -> None:
        """A backlog in PostgreSQL that nobody takes yet.

        The dispatcher is held as a process: suspending agents instead would add to the clock the
        second for which every process may keep its view of the registry.
        """
        self.children["dispatcher"].send_signal(signal.SIGSTOP)
        submit(self.engine, tasks)

    def release(self) -> float:
        """Let the dispatcher go; the instant at which it went."""
        started = time.perf_counter()
        self.children["dispatcher"].send_signal(signal.SIGCONT)
        return started

    def drain(self, most_s: float | None = None) -> float:
        """Seconds from the release to the end of the last task, or `most_s` if that is sooner."""
        started = self.release()
        with psycopg.connect(self.url, autocommit=True) as watch:
            while _is_open(watch):
                elapsed_s = time.perf_counter() - started
                if most_s is not None and elapsed_s > most_s:
                    break
                self.require_alive()
                if elapsed_s > STALL_S:
                    raise RuntimeError(f"the backlog did not end in {STALL_S:g} s")
                time.sleep(POLL_S)
            return time.perf_counter() - started

    def settled(self) -> int:
        """How many tasks were settled so far."""
        with psycopg.connect(self.url, autocommit=True) as watch:
            # Ids are dense and 0 is the client's credit: the highest one is their number.
            row = watch.execute("SELECT max(id) FROM ledger_transaction").fetchone()
        assert row is not None
        return int(row[0])

    def alone_ms(self, singles: int) -> list[float]:
        """Milliseconds from submit to settled, one task at a time."""
        found = []
        with Listener(self.url, ENDED) as listener:
            for _ in range(20 + singles):
                started = time.perf_counter()
                task = intake.submit(self.engine, CLIENT, [SUBMISSION], datetime.now(UTC))[0].task
                while not any(task in payload for _, payload in listener.wait(ALONE_S)):
                    if time.perf_counter() - started > ALONE_S:
                        raise RuntimeError(f"a task alone did not end within {ALONE_S:g} s")
                found.append((time.perf_counter() - started) * 1000)
        return found[20:]

    def require_alive(self) -> None:
        """Raises RuntimeError when a process has died."""
        require_alive(self.children, self.bench.place)

    def require_sound(self) -> None:
        """A figure only counts when every task was paid and the ledger is whole."""
        counts = {row["state"]: row["tasks"] for row in intake.task_counts(self.engine)}
        if counts != {"COMMITTED": self.settled()}:
            raise RuntimeError(f"not every task was settled: {counts}")
        found = check.violations(self.engine)
        if found:
            raise RuntimeError(f"the ledger is broken: {found[0]}")


@contextmanager
def running(
    bench: Bench,
    name: str,
    *,
    agents: Sequence[Agent] | None = None,
) -> Iterator[Stand]:
    """A stand named `name`, ready to work, with in-process echo agents unless others are given."""
    connect_redis(bench.redis_url).flushdb()
    with database(bench, name, agents or echo_agents()) as (url, engine):
        settings = Settings(
            database_url=url, redis_url=bench.redis_url, celery_broker_url=bench.redis_url
        )
        with together(_processes(bench, settings), bench.place) as children:
            yield Stand(bench=bench, url=url, engine=engine, children=children)
    connect_redis(bench.redis_url).flushdb()


@contextmanager
def database(
    bench: Bench,
    name: str,
    agents: Sequence[Agent],
    fill: Callable[[str], None] = lambda _url: None,
) -> Iterator[tuple[str, Engine]]:
    """A new, migrated and configured database; gone after the block.

    fill: what is to be in its tables before it is configured, and its log begins.
    """
    with empty_database(bench, name) as url:
        db.migrate(sqlalchemy_url(url))
        fill(url)
        engine = db.connect(sqlalchemy_url(url))
        registry.apply(engine, _wanted(agents), datetime.now(UTC))
        yield url, engine
        engine.dispose()


@contextmanager
def empty_database(bench: Bench, name: str) -> Iterator[str]:
    """The URL of a new database without tables; gone after the block."""
    with psycopg.connect(bench.database_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE bench_{name}")
    try:
        yield f"{bench.database_url.rpartition('/')[0]}/bench_{name}"
    finally:
        with psycopg.connect(bench.database_url, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE bench_{name} WITH (FORCE)")


def echo_agents(count: int = AGENTS, slots: int = SLOTS) -> list[Agent]:
    """Agents that answer at once, in the execute step's own process."""
    return [
        Agent(id=f"A{number}", kind="echo", url="echo:", y_max=100_000, k=10**6, slots=slots)
        for number in range(count)
    ]


def submit(engine: Engine, tasks: int) -> None:
    """Accept `tasks` tasks, a thousand at a time."""
    for start in range(0, tasks, SUBMIT_MAX):
        count = min(SUBMIT_MAX, tasks - start)
        intake.submit(engine, CLIENT, [SUBMISSION] * count, datetime.now(UTC))


def _wanted(agents: Sequence[Agent]) -> registry.Wanted:
    return registry.Wanted(
        params={"tau_ppm": 10_000},
        clients=[registry.Client(id=CLIENT, mint_ub=10**15)],
        agents=agents,
        families=[
            Family(id=FAMILY, size=100, deadline_s=30, max_attempts=3, validator={"type": "none"})
        ],
    )


def _processes(bench: Bench, settings: Settings) -> list[Process]:
    """What `clearlane up` would run on these servers, without what people look at."""
    stages = stack.plan(settings, bench.place, prepare=lambda _: None).stages
    found = [
        process for stage in stages for process in stage.processes if process.name not in LEFT_OUT
    ]
    return [_profiled(process, bench) for process in found]


def _profiled(process: Process, bench: Bench) -> Process:
    if bench.profile is None or bench.profile[0] != process.name:
        return process
    python, *rest = process.argv
    return replace(process, argv=(python, "-m", "cProfile", "-o", str(bench.profile[1]), *rest))


def _is_open(connection: psycopg.Connection[Any]) -> bool:
    """Whether a task has not ended yet; as cheap as the index that the dispatcher uses."""
    return (
        connection.execute("SELECT 1 FROM task WHERE state = 'INIT' LIMIT 1").fetchone() is not None
    )
