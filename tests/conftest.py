"""Real servers for every test: one PostgreSQL and one Valkey a run, an empty database a test."""

from __future__ import annotations

import itertools
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from sqlalchemy import Engine

from ledger import db
from scheduler.connection import connect as connect_redis
from scheduler.reservations import Reservations
from tasks.context import Context
from tests.servers import embedded_servers, scratch
from workers.settings import sqlalchemy_url

TEMPLATE = "clearlane_template"
_numbers = itertools.count(1)

# A shell that runs us in the background has interrupts ignored, and so would all that we start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes is the machine's business.
settings.register_profile("clearlane", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("clearlane")


@dataclass(frozen=True, kw_only=True)
class Servers:
    database_url: str
    redis_url: str


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    """PostgreSQL and Valkey for the whole run, and a migrated database to copy."""
    with scratch() as directory, embedded_servers(directory) as (database_url, redis_url):
        with psycopg.connect(database_url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {TEMPLATE}")
        db.migrate(sqlalchemy_url(_named(database_url, TEMPLATE)))
        yield Servers(database_url=database_url, redis_url=redis_url)


@pytest.fixture
def database_url(servers: Servers) -> Iterator[str]:
    """A fresh, migrated database of this test alone."""
    name = f"test_{next(_numbers)}"
    with psycopg.connect(servers.database_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
        yield _named(servers.database_url, name)
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """The ledger of this test, as our processes see it."""
    engine = db.connect(sqlalchemy_url(database_url))
    yield engine
    engine.dispose()


@pytest.fixture
def redis_url(servers: Servers) -> Iterator[str]:
    """An empty Valkey."""
    client = connect_redis(servers.redis_url)
    client.flushall()
    yield servers.redis_url
    client.flushall()


@pytest.fixture
def reservations(redis_url: str) -> Reservations:
    return Reservations(connect_redis(redis_url))


@pytest.fixture
def context(engine: Engine, reservations: Reservations) -> Context:
    """What the saga's steps work with, outside any worker process."""
    return Context(engine=engine, reservations=reservations, lease_margin_s=1.0)


@pytest.fixture
def finalizers(monkeypatch: pytest.MonkeyPatch) -> None:
    """An alarm may strike inside a finalizer, where Python only reports it and the next one counts;
    pytest would take the report for a failure."""
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)


@pytest.fixture
def now() -> datetime:
    return datetime.now(UTC)


def _named(url: str, database: str) -> str:
    return f"{url.rsplit('/', 1)[0]}/{database}"
