"""Connections to PostgreSQL, named statements, migrations, notifications.

SQLAlchemy gives the pool and the transactions; there is no ORM. A statement is a file in
`ledger/sql/`, called by its name, its values bound by the driver.
"""

from __future__ import annotations

import json
import selectors
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from typing import Any, Final, cast

import psycopg
from psycopg import Cursor, OperationalError
from psycopg.errors import DiskFull, UndefinedColumn, UndefinedTable
from psycopg.rows import namedtuple_row
from sqlalchemy import Connection, Engine, create_engine, exc

from ledger.errors import Conflict, InvariantBroken, Unavailable

APP_ROLE: Final = "clearlane_app"  # may add facts, not change them (schema.sql, Privileges)
ENDED_MAX: Final = 100
STREAMED: Final = 10_000  # rows in memory at a time
MIGRATION_LOCK: Final = 0x436C_0001
CLAIM_LOCK: Final = 0x436C_0003
SETTLE_LOCK: Final = 0x436C_0002

READY: Final = "clearlane_ready"  # a task became ready, or capacity came free
ENDED: Final = "clearlane_ended"  # tasks ended; the payload is their ids as a JSON list

# A server that vanished without a word is noticed in half a minute, not in hours.
PEER_GONE: Final[dict[str, Any]] = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 4,
    "tcp_user_timeout": 30_000,
}

# Our statements touch few rows, by index. A plan made once is as good as one made for the values,
# and compiling a plan costs more than running it. A plan made while a table was small would read
# all of it, and would be kept while the table grows: so no plan may.
BY_INDEX: Final = (
    "-c plan_cache_mode=force_generic_plan -c jit=off"
    " -c enable_seqscan=off -c enable_hashjoin=off -c enable_mergejoin=off"
)
POOL_S: Final = 5.0  # for a free connection
LISTEN_S: Final = 30.0  # for a server that takes nothing of what it is sent

Ledger = Engine
"""What the rooms above hold and hand back, without knowing what it is."""


def connect(url: str, *, pool_size: int = 4) -> Engine:
    """An engine for `postgresql+psycopg://`; it connects on first use, as the app's role."""
    return create_engine(
        url,
        pool_size=pool_size,
        max_overflow=pool_size,
        pool_timeout=POOL_S,
        # A statement's values are payloads: they belong in no error text and no log.
        hide_parameters=True,
        connect_args={
            "options": f"-c role={APP_ROLE} -c timezone=UTC {BY_INDEX}",
            "application_name": "clearlane",
            **PEER_GONE,
        },
    )


@cache
def sql(name: str) -> str:
    """The statement `ledger/sql/<name>.sql`; values are bound as `%(name)s`."""
    return resources.files("ledger.sql").joinpath(f"{name}.sql").read_text()


def query(
    connection: Connection, name: str, values: Mapping[str, Any] | None = None
) -> Cursor[Any]:
    """Run a named statement; its rows have the columns as attributes.

    Straight on the driver's cursor: SQLAlchemy keeps the pool and the transaction, but its result
    objects cost more than most of our statements.
    """
    driver = _driver(connection)
    cursor = driver.cursor(row_factory=namedtuple_row).execute(sql(name), values)
    if driver.pgconn.flush():
        _send_rest(driver)
    return cursor


def scan(
    connection: Connection, name: str, *, at_a_time: int = STREAMED
) -> Iterator[tuple[Any, ...]]:
    """The rows of a named statement as it finds them now, however many: not all at a time.

    Other statements may run in between, and change what was not read yet: the rows do not.
    """
    cursor = _driver(connection).cursor(name)
    with cursor:
        cursor.itersize = at_a_time
        yield from cursor.execute(sql(name))


@contextmanager
def batch(connection: Connection) -> Iterator[None]:
    """Send the statements of the block in one round trip; their rows can be read after it.

    On a connection of `single` the block is a transaction of its own.
    """
    driver = _driver(connection)
    with driver.pipeline():
        yield
        _send_rest(driver)


@contextmanager
def last_batch(connection: Connection) -> Iterator[None]:
    """A `batch` that ends its transaction: the commit travels with it."""
    driver = _driver(connection)
    with driver.pipeline():
        yield
        _send_rest(driver)
        driver.commit()


def _send_rest(driver: psycopg.Connection[Any]) -> None:
    """Send what a batch has given to the driver, and leave room for the few bytes that end it.

    In a pipeline psycopg 3.3 forgets what the socket does not take at once: both sides would then
    wait for the other for ever, with all that the transaction holds.
    """
    with selectors.DefaultSelector() as selector:
        selector.register(driver.fileno(), selectors.EVENT_READ | selectors.EVENT_WRITE)
        while True:
            unsent = driver.pgconn.flush()
            ready = [events for _, events in selector.select(LISTEN_S)]
            if not ready:
                raise OperationalError("the server does not take what it is sent")
            if ready[0] & selectors.EVENT_READ:  # it may wait for us to read, too
                driver.pgconn.consume_input()
            if not unsent and ready[0] & selectors.EVENT_WRITE:
                return


def _driver(connection: Connection) -> psycopg.Connection[Any]:
    return cast("psycopg.Connection[Any]", connection.connection.driver_connection)


def one(cursor: Cursor[Any]) -> Any:
    """The only row of a statement that has exactly one."""
    row = cursor.fetchone()
    if row is None:
        raise InvariantBroken("a statement that always has a row had none")
    return row


def dicts(cursor: Cursor[Any]) -> list[dict[str, Any]]:
    """All rows as dictionaries."""
    return [row._asdict() for row in cursor]


@contextmanager
def transaction(engine: Engine) -> Iterator[Connection]:
    """One transaction. Raises Unavailable when the server is away.

    Then nothing was done, unless the answer to the commit itself was lost: only steps that may
    run twice may run here.
    """
    with _translated(), engine.begin() as connection, _invalidating(connection):
        yield connection


@contextmanager
def single(engine: Engine) -> Iterator[Connection]:
    """For lone statements: each is its own transaction and costs one round trip."""
    with _translated(), engine.connect() as plain:
        connection = plain.execution_options(isolation_level="AUTOCOMMIT")
        with _invalidating(connection):
            yield connection


@contextmanager
def report(engine: Engine) -> Iterator[Connection]:
    """A transaction for statements that read whole tables, planned by what is in them."""
    with transaction(engine) as connection:
        query(connection, "report")
        yield connection


@contextmanager
def _invalidating(connection: Connection) -> Iterator[None]:
    """Never give a connection back to the pool that broke, or that Ctrl-C took out of its talk."""
    try:
        yield
    except (OperationalError, KeyboardInterrupt):
        connection.invalidate()
        raise


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (UndefinedTable, UndefinedColumn) as error:
        # Retryable: whoever is upgraded before the database waits for it.
        raise Unavailable(
            "postgresql",
            "the database does not hold this version's tables",
            "run `clearlane migrate`, or correct DATABASE_URL",
        ) from error
    except (OperationalError, exc.OperationalError, exc.InterfaceError, exc.TimeoutError) as error:
        cause = getattr(error, "orig", error)
        reason = str(cause).strip().splitlines()[0]
        remedy = "check DATABASE_URL and that the server runs"
        if isinstance(cause, DiskFull):
            remedy = "make room on the disk of the server"
        raise Unavailable("postgresql", reason, remedy) from error


def notify(connection: Connection, channel: str, payload: str = "") -> None:
    """Wake whoever listens, when this transaction commits and not before."""
    query(connection, "notify", {"channel": channel, "payload": payload})


def notify_ended(connection: Connection, tasks: Sequence[str]) -> None:
    """Say which tasks ended, in groups that fit into a notification (8,000 bytes)."""
    for start in range(0, len(tasks), ENDED_MAX):
        notify(connection, ENDED, json.dumps(tasks[start : start + ENDED_MAX]))


def server_time(engine: Engine) -> datetime:
    """What PostgreSQL's clock says: the one clock that all processes share."""
    with single(engine) as connection:
        now: datetime = one(query(connection, "clock")).now
    return now


def instant(ms: int) -> datetime:
    """A point in time from milliseconds since the epoch."""
    return datetime.fromtimestamp(ms / 1000, UTC)


def migrate(url: str) -> None:
    """Bring the schema to the newest revision. Safe to run from several processes at once.

    Raises Conflict when it is newer than this program.
    """
    # Only here: every worker imports this module, and none of them migrates.
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", "ledger:migrations")
    engine = create_engine(url, connect_args={"connect_timeout": 5})
    try:
        with transaction(engine) as connection:
            query(connection, "migration_lock", {"lock": MIGRATION_LOCK})
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except CommandError as error:  # a revision that this program does not have
        remedy = "run the newer program, or restore a backup of before the upgrade"
        raise Conflict("schema", f"it is newer than this program ({error})", remedy) from None
    finally:
        engine.dispose()
