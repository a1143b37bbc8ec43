"""Clearlane: a backlog in PostgreSQL drained by the product's own processes, and one task alone."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import psycopg
from sqlalchemy import Engine

from bench.processes import Children, meter, require_alive, together
from ledger import check, db, intake, registry
from ledger.db import ENDED
from ledger.listen import Listener
from ledger.model import Agent, Family
from scheduler.reservations import connect as connect_redis
from workers import stack
from workers.process import Process
from workers.settings import Settings, sqlalchemy_url

AGENTS = 4
SLOTS = 300
WARM_TASKS = 500
SUBMIT_MAX = 1_000  # tasks in one submission
POLL_S = 0.1
STALL_S = 300.0
ALONE_S = 10.0
LEFT_OUT = ("flower", "gateway")  # nobody looks, and tasks come in through the ledger
CLIENT = "bench"
FAMILY = "echo"


def trial(
    number: int, *, database_url: str, redis_url: str, place: Path, tasks: int, singles: int
) -> dict[str, Any]:
    """One trial on an empty database and an empty Redis, with fresh processes."""
    connect_redis(redis_url).flushdb()
    with _database(database_url, f"bench_{number}") as (url, engine):
        with together(_processes(url, redis_url, place), place) as children:
            _drain(engine, url, children, place, min(WARM_TASKS, tasks))
            used = meter(children)
            wall_s = _drain(engine, url, children, place, tasks)
            cpu_s = used()
            latencies_ms = _alone_ms(engine, url, singles)
        _require_sound(engine, min(WARM_TASKS, tasks) + tasks + 20 + singles)
    return {
        "setup": "Clearlane",
        "tasks": tasks,
        "wall_s": wall_s,
        "per_s": tasks / wall_s,
        "alone_ms": latencies_ms,
        "alone_p50_ms": median(latencies_ms),
        "cpu_s": cpu_s,
    }


@contextmanager
def _database(server_url: str, name: str) -> Iterator[tuple[str, Engine]]:
    """A new, migrated and configured database."""
    url = f"{server_url.rpartition('/')[0]}/{name}"
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        db.migrate(sqlalchemy_url(url))
        engine = db.connect(sqlalchemy_url(url))
        registry.apply(engine, _wanted(), datetime.now(UTC))
        yield url, engine
        engine.dispose()
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def _wanted() -> registry.Wanted:
    return registry.Wanted(
        params={"tau_ppm": 10_000},
        clients=[registry.Client(id=CLIENT, mint_ub=10**15)],
        agents=[
            Agent(id=f"A{number}", kind="echo", url="echo:", y_max=100_000, k=10**6, slots=SLOTS)
            for number in range(AGENTS)
        ],
        families=[
            Family(id=FAMILY, size=100, deadline_s=30, max_attempts=3, validator={"type": "none"})
        ],
    )


def _processes(database_url: str, redis_url: str, place: Path) -> list[Process]:
    """What `clearlane up` would run on these servers, without what people look at."""
    settings = Settings(database_url=database_url, redis_url=redis_url, celery_broker_url=redis_url)
    stages = stack.plan(settings, place, prepare=lambda _: None).stages
    return [
        process for stage in stages for process in stage.processes if process.name not in LEFT_OUT
    ]


def _drain(engine: Engine, url: str, children: Children, place: Path, tasks: int) -> float:
    """Seconds from the dispatcher's release to the end of the last of `tasks`.

    The dispatcher is held as a process: suspending agents instead would add to the clock the
    second for which every process may keep its view of the registry.
    """
    dispatcher = children["dispatcher"]
    dispatcher.send_signal(signal.SIGSTOP)
    submission = intake.Submission(family=FAMILY, payload={"n": 1})
    for start in range(0, tasks, SUBMIT_MAX):
        count = min(SUBMIT_MAX, tasks - start)
        intake.submit(engine, CLIENT, [submission] * count, datetime.now(UTC))
    with psycopg.connect(url, autocommit=True) as watch:
        started = time.perf_counter()
        dispatcher.send_signal(signal.SIGCONT)
        while _is_open(watch):
            require_alive(children, place)
            if time.perf_counter() - started > STALL_S:
                raise RuntimeError(f"{tasks} tasks did not end in {STALL_S:g} s")
            time.sleep(POLL_S)
        return time.perf_counter() - started


def _is_open(connection: psycopg.Connection[Any]) -> bool:
    """Whether a task has not ended yet; as cheap as the index that the dispatcher uses."""
    return (
        connection.execute("SELECT 1 FROM task WHERE state = 'INIT' LIMIT 1").fetchone() is not None
    )


def _alone_ms(engine: Engine, url: str, singles: int) -> list[float]:
    """Milliseconds from submit to settled, one task at a time."""
    found = []
    with Listener(url, ENDED) as listener:
        for _ in range(20 + singles):
            submission = intake.Submission(family=FAMILY, payload={"n": 1})
            started = time.perf_counter()
            task = intake.submit(engine, CLIENT, [submission], datetime.now(UTC))[0].task
            while not any(task in payload for _, payload in listener.wait(ALONE_S)):
                if time.perf_counter() - started > ALONE_S:
                    raise RuntimeError(f"a task alone did not end within {ALONE_S:g} s")
            found.append((time.perf_counter() - started) * 1000)
    return found[20:]


def _require_sound(engine: Engine, tasks: int) -> None:
    """A figure only counts when every task was paid and the ledger is whole."""
    counts = {row["state"]: row["tasks"] for row in intake.task_counts(engine)}
    if counts != {"COMMITTED": tasks}:
        raise RuntimeError(f"not all of {tasks} tasks were settled: {counts}")
    found = check.violations(engine)
    if found:
        raise RuntimeError(f"the ledger is broken: {found[0]}")
