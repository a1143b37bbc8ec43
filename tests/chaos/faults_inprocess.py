"""Where the product meets PostgreSQL, Redis and Celery in one process, made tappable from outside.

The product holds no hook for faults. A connection class, a Redis client class and a transport stand
where the real ones do, do what those do on real servers, and tell a `Tap` before and after each
commit, pipeline and send. What then happens is up to whoever set `Tap.at`.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from importlib.metadata import entry_points
from types import SimpleNamespace
from typing import Any, Self
from unittest.mock import patch

import psycopg
import redis
import tenacity.nap
from kombu.exceptions import OperationalError as SendFailed
from psycopg.pq import TransactionStatus
from redis.client import Pipeline
from sqlalchemy import Engine, event

import ledger.intake
import scheduler.hooks
import tasks.context
import tasks.messages
from ledger import db
from ledger.registry import Registry, load_registry
from scheduler.hooks import Hooks, load_hooks
from scheduler.qos import Qos
from tasks import execute

PG, REDIS, SEND = "pg", "redis", "send"
BEFORE, AFTER = "before", "after"
SAID = {BEFORE: "refused", AFTER: "the reply was lost"}


class Crash(BaseException):
    """kill -9, as the process sees it: no handler of the product runs on it."""


class Away(Exception):
    """The server does not answer: before, nothing was done; after, the answer is lost."""


class Tap:
    """Every commit, pipeline and send passes here twice. `at(kind, side)` may raise or act."""

    def __init__(self) -> None:
        self.at: Callable[[str, str], None] = lambda _kind, _side: None

    def pass_by(self, kind: str, side: str, failed: type[Exception]) -> None:
        """One side of one write; `failed` is the error that this client raises in an outage."""
        try:
            self.at(kind, side)
        except Away:
            raise failed(f"planned: {SAID[side]}") from None

    @contextmanager
    def passing(self, kind: str, failed: type[Exception]) -> Iterator[None]:
        """Both sides of one write."""
        self.pass_by(kind, BEFORE, failed)
        yield
        self.pass_by(kind, AFTER, failed)


WRITES = re.compile(r"\b(INSERT|UPDATE|DELETE)\b")


class TappedCursor(psycopg.Cursor[Any]):
    """psycopg's cursor; a write outside a transaction is a commit of its own."""

    def execute(self, query: Any, *args: Any, **values: Any) -> Self:
        connection = self.connection
        if not isinstance(connection, TappedConnection):
            raise TypeError("a tapped cursor is of a tapped connection")
        if not connection.autocommit or not WRITES.search(str(query)):
            return super().execute(query, *args, **values)
        with connection.committing():
            return super().execute(query, *args, **values)


class TappedConnection(psycopg.Connection[Any]):
    """psycopg's connection, whose commits can be seen: asked for, or implied by autocommit.

    In a pipeline a commit is on its way when it is asked for and done when the pipeline ends.
    """

    tap: Tap | None = None
    _on_its_way = False

    @contextmanager
    def committing(self) -> Iterator[None]:
        """Around whatever commits."""
        if self.tap is None:
            yield
        elif self._pipeline is None:
            with self.tap.passing(PG, psycopg.OperationalError):
                yield
        else:
            if not self._on_its_way:
                self.tap.pass_by(PG, BEFORE, psycopg.OperationalError)
            yield
            self._on_its_way = True

    def commit(self) -> None:
        if self.info.transaction_status == TransactionStatus.IDLE and not self._pipeline:
            super().commit()  # it has been committed by its last batch
            return
        with self.committing():
            super().commit()

    @contextmanager
    def pipeline(self) -> Iterator[psycopg.Pipeline]:
        """A pipeline at whose end what was committed in it is known to be."""
        self._on_its_way = False
        with super().pipeline() as pipeline:
            yield pipeline
        if self._on_its_way and self.tap is not None:
            self._on_its_way = False
            self.tap.pass_by(PG, AFTER, psycopg.OperationalError)


class TappedPipeline(Pipeline):
    """redis-py's pipeline; all of ours go through one."""

    tap: Tap | None = None

    def execute(self, raise_on_error: bool = True) -> Any:
        if self.tap is None:
            return super().execute(raise_on_error)
        with self.tap.passing(REDIS, redis.ConnectionError):
            return super().execute(raise_on_error)


class TappedRedis(redis.Redis):
    """redis-py's client with tapped pipelines."""

    tap: Tap | None = None

    def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> Any:
        pipe = TappedPipeline(
            self.connection_pool, self.response_callbacks, transaction, shard_hint
        )
        pipe.tap = self.tap
        return pipe


class TappedTransport:
    """Celery's part: hands each message, as JSON, to `carry(step, message)`."""

    def __init__(self, tap: Tap, carry: Callable[[str, Any], None]) -> None:
        self._tap, self._carry = tap, carry

    def send_task(self, name: str, args: list[Any], **_shown: str) -> None:
        with self._tap.passing(SEND, SendFailed):
            self._carry(name, json.loads(json.dumps(args[0])))


def tapped_ledger(url: str, tap: Tap) -> Engine:
    """`ledger.db.connect`, on tapped connections."""
    engine = db.connect(url)

    @event.listens_for(engine, "do_connect")
    def _connect(_dialect: Any, _record: Any, args: Any, values: Any) -> TappedConnection:
        connection = TappedConnection.connect(*args, **values)
        connection.tap = tap
        connection.cursor_factory = TappedCursor
        return connection

    return engine


def tapped_redis(url: str, tap: Tap) -> TappedRedis:
    """What `scheduler.connection.connect` gives, with tapped pipelines."""
    client = TappedRedis(connection_pool=redis.ConnectionPool.from_url(url, decode_responses=True))
    client.tap = tap
    return client


installed = cache(entry_points)  # what is installed stays so while the schedules run


@contextmanager
def seams(
    transport: TappedTransport, calls: Callable[[], Any], nap: Callable[[float], None]
) -> Iterator[None]:
    """Put the transport, the call loop (`calls()` gives it) and `nap` where the product looks.

    What only costs time is remembered for as long as the block lasts: the registry by its version,
    the plug-ins by the routing's parameters.
    """
    known: list[Registry] = []

    def registry(engine: Engine, last: Registry | None) -> Registry:
        known[:] = [load_registry(engine, last or (known[0] if known else None))]
        return known[0]

    hooks: dict[str, Hooks] = {}

    def plugins(builtin: Qos) -> Hooks:
        key = repr(vars(builtin))
        if key not in hooks:
            hooks[key] = load_hooks(builtin)
        return hooks[key]

    with ExitStack() as stack:
        for where, name, value in (
            (tasks.messages, "current_app", transport),
            (execute, "_loop", calls),
            (tenacity.nap, "time", SimpleNamespace(sleep=nap)),
            (tasks.context, "load_registry", registry),
            (tasks.context, "load_hooks", plugins),
            (scheduler.hooks, "entry_points", installed),
        ):
            stack.enter_context(patch.object(where, name, value))
        yield


@contextmanager
def seeded_ids(rng: random.Random) -> Iterator[None]:
    """Task ids from `rng` instead of the system: the same seed makes the same ids."""
    entropy = SimpleNamespace(urandom=rng.randbytes)
    with patch.object(ledger.intake, "os", entropy):
        yield
