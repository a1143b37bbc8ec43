"""Where schedules play: a database and a Valkey database, set back to the same start each time."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import psycopg
import redis
from sqlalchemy import Engine

from ledger import db, registry
from scheduler.connection import connect
from scheduler.reservations import Reservations
from tasks.context import Context
from tests.chaos.faults_inprocess import Tap, tapped_ledger, tapped_redis
from tests.makers import agent, client, family
from workers.settings import sqlalchemy_url

START_S = 1_900_000_000.0  # the same instant for every schedule
POOR_B, RICH_B = 2, 1_000_000
DEADLINE_S, MARGIN_S, SWEEP_S, CLOCK_S = 5.0, 1.0, 2.0, 10.0
QUIET_S = 2 * (DEADLINE_S + MARGIN_S + SWEEP_S)  # C11
MAX_ATTEMPTS = {"good": 4, "bad": 2}

AGENTS = [
    # A low k: the last tokens of a pool cost k/y, and a thousand times that per milli-token.
    agent("A", k=1000, y_max=1000, slots=3),
    agent("B", k=1000, y_max=600, slots=2),
    agent("C", k=1000, y_max=500, slots=4, refill_per_s=100),
    agent("D", k=1000, y_max=900, slots=2, cooldown_s=0.5),
]
FAMILIES = [
    family("good", deadline_s=DEADLINE_S, max_attempts=MAX_ATTEMPTS["good"]),
    family("bad", deadline_s=DEADLINE_S, max_attempts=MAX_ATTEMPTS["bad"],
           validator={"type": "exact", "value": "never"}),
]  # fmt: skip
CLIENTS = [client("rich", mint_b=RICH_B), client("poor", mint_b=POOR_B)]

# What a schedule writes, and a way back that costs one round trip. Facts are append-only for the
# product: only the owner, past every trigger, may clear them. A fixed planner and no statistics
# keep the order in which rows come the same from one run of a seed to the next.
SET_UP = """
CREATE SCHEMA chaos;
CREATE TABLE chaos.account AS SELECT * FROM account;
CREATE TABLE chaos.ledger_transaction AS SELECT * FROM ledger_transaction;
CREATE TABLE chaos.posting AS SELECT * FROM posting;
CREATE TABLE chaos.epoch AS SELECT * FROM epoch;
CREATE TABLE chaos.log_append AS SELECT * FROM log_append;
CREATE FUNCTION chaos.reset() RETURNS void LANGUAGE plpgsql
SET session_replication_role = replica AS $$
BEGIN
    DELETE FROM posting; DELETE FROM ledger_transaction; DELETE FROM account;
    DELETE FROM attempt; DELETE FROM task_result; DELETE FROM task_body; DELETE FROM task;
    DELETE FROM pool_snapshot;
    DELETE FROM log_append; DELETE FROM log_tile; DELETE FROM epoch;
    INSERT INTO account SELECT * FROM chaos.account;
    INSERT INTO ledger_transaction SELECT * FROM chaos.ledger_transaction;
    INSERT INTO posting SELECT * FROM chaos.posting;
    INSERT INTO epoch SELECT * FROM chaos.epoch;
    INSERT INTO log_append SELECT * FROM chaos.log_append;
END $$;
"""
PLAIN_PLANS = (
    "synchronous_commit = off",  # no schedule ends the server: nothing has to wait for the disk
    "enable_hashjoin = off",
    "enable_mergejoin = off",
)
VACUUM_EVERY = 100  # resets


class Stage:
    """The servers as schedules see them. `tap` is passed by all that `engine` and `redis` do."""

    def __init__(self, database_url: str, redis_url: str) -> None:
        self.database_url, self.redis_url = database_url, redis_url
        self.tap = Tap()
        self.connect()
        self._plain: redis.Redis = connect(redis_url)
        self._watch = db.connect(sqlalchemy_url(database_url))
        self.owner: psycopg.Connection[Any] = psycopg.connect(database_url, autocommit=True)
        self._resets = 0

    def reset(self) -> None:
        """The start of every schedule: accounts as installed, no tasks, an empty Redis."""
        self.owner.execute("SELECT chaos.reset()")
        self._resets += 1
        if self._resets % VACUUM_EVERY == 0:
            self.owner.execute("VACUUM")
        self.wipe()

    def connect(self) -> None:
        """Fresh connections for the product: at the start, and in a child after a fork."""
        self.engine: Engine = tapped_ledger(sqlalchemy_url(self.database_url), self.tap)
        self.redis = tapped_redis(self.redis_url, self.tap)

    def watcher(self, clock: Callable[[], float]) -> Context:
        """Somebody who sees all and is never disturbed."""
        return Context(
            engine=self._watch, reservations=Reservations(self._plain),
            lease_margin_s=MARGIN_S, clock=clock,
        )  # fmt: skip

    def wipe(self) -> None:
        """All of Redis is lost. Stages share a server, so this stage's database stands for it."""
        self._plain.flushdb()

    def do(self, *command: Any) -> None:
        """One command on Redis, past the product."""
        self._plain.execute_command(*command)  # type: ignore[no-untyped-call]

    def keys(self, pattern: str) -> list[str]:
        """Keys that Redis holds."""
        return sorted(self._plain.keys(pattern))  # type: ignore[arg-type]

    def close(self) -> None:
        self.engine.dispose()
        self._watch.dispose()
        self.owner.close()
        self.redis.close()
        self._plain.close()


@contextmanager
def stage(server_url: str, redis_url: str) -> Iterator[Stage]:
    """A stage in a new database of the server, and in an empty Valkey database of its own."""
    name = f"chaos_{secrets.token_hex(4)}"
    url = f"{server_url.rpartition('/')[0]}/{name}"
    with psycopg.connect(server_url, autocommit=True) as server:
        server.execute(f"CREATE DATABASE {name}")
        for setting in PLAIN_PLANS:
            server.execute(f"ALTER DATABASE {name} SET {setting}")
        try:
            db.migrate(sqlalchemy_url(url))
            _install(url)
            made = Stage(url, redis_url)
            try:
                yield made
            finally:
                made.wipe()
                made.close()
        finally:
            server.execute(f"DROP DATABASE {name} WITH (FORCE)")


def _install(url: str) -> None:
    engine = db.connect(sqlalchemy_url(url))
    wanted = registry.Wanted(
        params={"routing": {"seed": 1}, "tau_ppm": 10_000},
        clients=CLIENTS, agents=AGENTS, families=FAMILIES,
    )  # fmt: skip
    registry.apply(engine, wanted, datetime.fromtimestamp(START_S, UTC))
    engine.dispose()
    with psycopg.connect(url, autocommit=True) as owner:
        owner.execute(SET_UP)
        for table in ("task", "task_body", "task_result", "attempt", "ledger_transaction",
                      "posting", "account", "pool_snapshot"):  # fmt: skip
            owner.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off)")
