"""Whatever is changed in the ledger or in the log, somebody finds it: `ledger check`, a replica.

Each case breaks one thing in a copy of the same small installation, as the owner of the database
could, and names who must find it. Columns come from the database: one that nobody has decided about
fails the test.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest
from psycopg import errors
from sqlalchemy import Engine

from ledger import attempts, checkpoints, db, epochs, leaves
from ledger.attempts import Waiting, put_back
from ledger.check import violations
from ledger.check_tiles import Tiles
from ledger.errors import ClearlaneError, Unavailable
from ledger.log import open_page
from ledger.model import Outcome, Wait
from ledger.proof import entries
from ledger.proof.merkle import EMPTY_EDGE, leaf_hash
from ledger.proof.notes import COSIGNER, LOG, Signer
from ledger.proof.policy import Policy
from ledger.proof.replay import RULES
from ledger.proof.tiles import Bundle, decode_bundle, encode_bundle, parse_path
from ledger.settle import settle
from tests.conftest import TEMPLATE, Servers
from tests.makers import (
    UB,
    agent,
    claim,
    client,
    failure,
    install,
    jump,
    plant,
    settlement,
    submit,
)
from workers.replica import store
from workers.replica.evidence import Evidence
from workers.replica.follow import Follower
from workers.replica.replica import Replica
from workers.replica.source import Source
from workers.settings import sqlalchemy_url

START: Final = datetime(2026, 1, 1, 12, tzinfo=UTC)
PARAMS: Final = {
    "tau_ppm": 20_000,
    "clearing": {"top_up_ub": UB, "top_up_cap_ub": 5 * UB, "epoch_s": 600},
}
PAID: Final = 520  # tasks: two complete tiles


class By(Enum):
    """Who finds it."""

    CHECK = "check"
    REPLICA = "replica"
    BOTH = "both"


def key(number: int, name: str = "log.example/1", kind: int = LOG) -> Signer:
    return Signer(name=name, kind=kind, seed=bytes([number] * 32))


WITNESS: Final = key(50, "w50.example", COSIGNER)


# The installation --------------------------------------------------------------------------------


def pay(engine: Engine, now: datetime, count: int, by: str = "R", **values: Any) -> None:
    submit(engine, now, count, by=by)
    done = [settlement(item, payer=f"client:{by}", **values) for item in claim(engine, now)]
    assert len(done) == count
    settle(engine, done, now=now)


def fail(engine: Engine, now: datetime) -> None:
    """An agent's f jumps; then the attempt after is lost, and blames nobody."""
    submit(engine, now)
    (first,) = claim(engine, now)
    attempts.abort(engine, [failure(first, penalty=jump((0.1, 2.5), (0.9, 0.72)))], now)
    later = now + timedelta(minutes=1)
    (second,) = claim(engine, later)
    attempts.abort(engine, [failure(second, agent=None, outcome=Outcome.LOST)], later)
    (third,) = claim(engine, later + timedelta(minutes=1))
    done = settlement(third, agent="B", output={"é": [1, 2.5]})
    settle(engine, [done], now=later + timedelta(minutes=1))


def wait_for_credit(engine: Engine, now: datetime, by: str) -> None:
    submit(engine, now, by=by)
    later = int((now + timedelta(days=30)).timestamp() * 1000)
    put_back(engine, [Waiting(item, Wait.CREDIT, later) for item in claim(engine, now)])


def sign(engine: Engine, number: int, now: datetime) -> None:
    """A checkpoint, cosigned; the quorum is one witness."""
    assert checkpoints.sign(engine, lambda: key(number), now) is not None
    found = checkpoints.newest(engine)
    line = WITNESS.sign(found.note.text, time_s=int(now.timestamp()))
    checkpoints.cosign(engine, found.size, WITNESS.key, line, now)
    policy = Policy.parse(f"witness w50 {WITNESS.key.encode()}\nquorum w50\n")
    assert checkpoints.settle_quorum(engine, checkpoints.newest(engine), policy, now)


def build(engine: Engine) -> None:
    clients = [client("R", 9000), client("P", 100), client("Q", 0, quota_ub=50 * UB)]
    workers = [agent("A", quota_ub=UB), agent("B")]
    install(engine, START, clients=clients, agents=workers, params=PARAMS)
    pay(engine, START + timedelta(minutes=1), PAID)
    pay(engine, START + timedelta(minutes=2), 1, cost_ub=0)
    pay(engine, START + timedelta(minutes=3), 1, "P", cost_ub=100 * UB)
    pay(engine, START + timedelta(minutes=3), 1, "Q", agent="B", cost_ub=7_777_777)
    fail(engine, START + timedelta(minutes=4))
    wait_for_credit(engine, START + timedelta(minutes=8), "P")
    epochs.close(engine, 1, START + timedelta(minutes=10))
    sign(engine, 1, START + timedelta(minutes=11))
    clients[2] = client("Q", 0, quota_ub=60 * UB)
    install(engine, START + timedelta(minutes=12), clients=clients, agents=workers, params=PARAMS)
    checkpoints.rotate(engine, key(1), key(2), START + timedelta(minutes=13))
    pay(engine, START + timedelta(minutes=14), 3, agent="B")
    fail(engine, START + timedelta(minutes=15))
    epochs.close(engine, 2, START + timedelta(minutes=20))
    pay(engine, START + timedelta(minutes=21), 2)
    sign(engine, 2, START + timedelta(minutes=22))
    pay(engine, START + timedelta(minutes=23), 1)


class Scene:
    """The installation. What is broken in it is put back: a copy for each case would take longer
    than all the rest."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.engine = db.connect(sqlalchemy_url(url))

    def keep(self) -> None:
        """Remember all as it stands."""
        with psycopg.connect(self.url) as connection:
            connection.execute("CREATE SCHEMA kept")
            for table in TABLES:
                connection.execute(f"CREATE TABLE kept.{table} AS TABLE {table}")

    def ask(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url) as connection:
            return connection.execute(statement, values).fetchall()

    @contextmanager
    def broken(self, table: str, *statements: str) -> Iterator[None]:
        """The statements done, of which the first change this table."""
        try:
            self._plant(statements)
            yield
        finally:
            names = ", ".join(self._written(table))
            plant(
                self.url,
                f"DELETE FROM {table}",
                f"INSERT INTO {table} ({names}) SELECT {names} FROM kept.{table}",
            )

    def found_by(self, directory: Path) -> tuple[By | None, str]:
        """Who finds what is wrong, and in which words."""
        checked = "; ".join(f"{v.subject}: {v.violation}" for v in violations(self.engine))
        refused = replayed(self.engine, directory)
        by = {(True, True): By.BOTH, (True, False): By.CHECK, (False, True): By.REPLICA}
        return by.get((bool(checked), bool(refused))), f"check: {checked}\nreplica: {refused}"

    def _written(self, table: str) -> list[str]:
        names = self.ask(
            "SELECT column_name FROM information_schema.columns WHERE table_schema = 'public'"
            " AND table_name = %s AND is_generated = 'NEVER'",
            (table,),
        )
        return [name for (name,) in names]

    def _plant(self, statements: Sequence[str]) -> None:
        """Past the triggers, and past whatever else of the table is in the way: its owner may."""
        while True:
            try:
                return plant(self.url, *statements)
            except errors.IntegrityError as error:
                diag = error.diag
                if isinstance(error, errors.CheckViolation) and diag.table_name is not None:
                    way = f"ALTER TABLE {diag.table_name} DROP CONSTRAINT {diag.constraint_name}"
                elif isinstance(error, errors.NotNullViolation):
                    way = f"ALTER TABLE {diag.table_name} ALTER {diag.column_name} DROP NOT NULL"
                elif diag.constraint_name == "epoch_open":
                    way = "DROP INDEX epoch_open"
                else:
                    raise
            plant(self.url, way)


@pytest.fixture(scope="module")
def scene(servers: Servers) -> Iterator[Scene]:
    with psycopg.connect(servers.database_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE tampered TEMPLATE {TEMPLATE}")
        made = Scene(f"{servers.database_url.rsplit('/', 1)[0]}/tampered")
        build(made.engine)
        made.keep()
        yield made
        left = violations(made.engine)
        made.engine.dispose()
        connection.execute("DROP DATABASE tampered WITH (FORCE)")
        assert left == []  # all of it was put back


# A replica ---------------------------------------------------------------------------------------


class Read(Source):
    """The log as the gateway would serve it, without the way over HTTP."""

    def __init__(self, engine: Engine) -> None:
        super().__init__("http://log", None)
        self._engine = engine

    async def _fetch(self, path: str, bytes_max: int) -> bytes:  # noqa: ARG002
        try:
            if path == "checkpoint":
                return checkpoints.newest(self._engine).note.encode().encode()
            wanted = parse_path(path)
            if isinstance(wanted, Bundle):
                return leaves.bundle(self._engine, wanted)
            return leaves.tile(self._engine, wanted)
        except Exception as error:  # whatever it is, the gateway has no answer
            raise Unavailable("log", repr(error), "ask again") from error


def replayed(engine: Engine, directory: Path) -> str:
    """What a replica that comes anew has against the log; "" when it follows."""
    with store.opened(directory, key(2).name) as opened:
        evidence = Evidence(directory)
        signer = key(60, "r.example", COSIGNER)
        replica = Replica(opened, evidence, log_key=key(2).key, signer=signer, clock_s=lambda: 2e9)

        async def look() -> str:
            async with Read(engine) as source:
                follower = Follower(replica, source)
                try:
                    await follower.look()
                except ClearlaneError as error:
                    return str(error)
                finally:
                    follower.close()
            return ""

        return asyncio.run(look())


# One value changed -------------------------------------------------------------------------------

LAST_PAID: Final = "(SELECT max(id) FROM ledger_transaction WHERE kind = 'settle')"
LAST_TASK: Final = f"(SELECT task FROM ledger_transaction WHERE id = {LAST_PAID})"
NEWEST: Final = "(SELECT max(size) FROM log_checkpoint)"

ROWS: Final = {
    "account": "id = 'client:R'",
    "ledger_transaction": f"id = {LAST_PAID}",
    "posting": f"transaction = {LAST_PAID} AND account = 'agent:A'",
    "epoch": "id = 2",
    "log_append": "epoch = 2 AND size - first = 3",
    "log_tile": "number = 1",
    "log_key": "number = 2",
    "log_checkpoint": f"size = {NEWEST}",
    "log_cosignature": f"size = {NEWEST}",
    "task": f"id = {LAST_TASK}",
    "task_result": f"task = {LAST_TASK}",
    "attempt": "agent = 'A' AND state = 'ABORTED' AND ended_at = (SELECT min(ended_at) FROM attempt"
    " WHERE state = 'ABORTED')",
    "param": "name = 'tau_ppm'",
}
"""The row that is changed; its column is one of these where the row must be another."""
OTHER_ROWS: Final = {
    ("epoch", "id"): "id = 3",
    ("log_append", "size"): "size = (SELECT max(size) FROM log_append)",
    ("attempt", "attempt"): f"task = {LAST_TASK}",
    ("attempt", "cost_ub"): f"task = {LAST_TASK}",
}

FOUND: Final[dict[tuple[str, str], By]] = {
    ("account", "id"): By.CHECK,
    ("account", "quota_ub"): By.CHECK,
    ("account", "balance_ub"): By.CHECK,
    ("account", "opened_at"): By.CHECK,
    ("account", "settled"): By.CHECK,
    ("ledger_transaction", "id"): By.CHECK,
    ("ledger_transaction", "kind"): By.CHECK,
    ("ledger_transaction", "task"): By.CHECK,
    ("ledger_transaction", "at"): By.CHECK,
    ("ledger_transaction", "leaf"): By.CHECK,
    ("posting", "transaction"): By.CHECK,
    ("posting", "account"): By.CHECK,
    ("posting", "amount_ub"): By.CHECK,
    ("epoch", "id"): By.CHECK,
    ("epoch", "opened_at"): By.CHECK,
    ("epoch", "first"): By.CHECK,
    ("epoch", "transaction"): By.CHECK,
    ("epoch", "minted_ub"): By.CHECK,
    ("epoch", "burned_ub"): By.CHECK,
    ("epoch", "size"): By.CHECK,
    ("epoch", "closed_at"): By.CHECK,
    ("epoch", "totals"): By.CHECK,
    ("epoch", "balances_sha256"): By.CHECK,
    ("epoch", "final_at"): By.CHECK,
    ("log_append", "size"): By.CHECK,
    ("log_append", "first"): By.BOTH,
    ("log_append", "epoch"): By.CHECK,
    ("log_append", "at"): By.CHECK,
    ("log_append", "entries"): By.BOTH,
    ("log_append", "hashes"): By.BOTH,
    ("log_append", "edge"): By.CHECK,
    ("log_append", "root"): By.CHECK,
    ("log_tile", "level"): By.BOTH,
    ("log_tile", "number"): By.BOTH,
    ("log_tile", "hashes"): By.CHECK,
    ("log_tile", "root"): By.BOTH,
    ("log_key", "number"): By.CHECK,
    ("log_key", "vkey"): By.CHECK,
    ("log_key", "leaf"): By.CHECK,
    ("log_key", "at"): By.CHECK,
    ("log_checkpoint", "size"): By.CHECK,
    ("log_checkpoint", "note"): By.BOTH,
    ("log_checkpoint", "quorum_at"): By.CHECK,
    ("log_cosignature", "size"): By.CHECK,
    ("log_cosignature", "witness"): By.CHECK,
    ("log_cosignature", "line"): By.CHECK,
    ("task", "id"): By.CHECK,
    ("task", "client"): By.CHECK,
    ("task", "size"): By.CHECK,
    ("task", "state"): By.CHECK,
    ("task", "ended_at"): By.CHECK,
    ("task_result", "task"): By.CHECK,
    ("task_result", "agent"): By.CHECK,
    ("task_result", "attempt"): By.CHECK,
    ("task_result", "cost_ub"): By.CHECK,
    ("task_result", "output"): By.CHECK,
    ("attempt", "task"): By.CHECK,
    ("attempt", "attempt"): By.CHECK,
    ("attempt", "state"): By.CHECK,
    ("attempt", "outcome"): By.CHECK,
    ("attempt", "agent"): By.CHECK,
    ("attempt", "cost_ub"): By.CHECK,
    ("attempt", "f_before"): By.CHECK,
    ("attempt", "f_after"): By.CHECK,
    ("attempt", "s_before"): By.CHECK,
    ("attempt", "s_after"): By.CHECK,
    ("attempt", "ended_at"): By.CHECK,
    ("param", "name"): By.CHECK,
    ("param", "value"): By.CHECK,
}

OUR_CLOCK: Final = "when we wrote the row; the log says nothing of it"
WORK: Final = "how the work is organised; the log says what came of it"
TOLD: Final = "told by whoever did the attempt, to us alone"
EXEMPT: Final[dict[tuple[str, str], str]] = {
    ("log_checkpoint", "at"): OUR_CLOCK,
    ("log_cosignature", "at"): OUR_CLOCK + "; the witness's own time is in its line",
    **{("log_witness", name): "how it went last; nothing is built on it"
       for name in ("witness", "size", "fault", "at", "accuses")},
    ("attempt", "latency_s"): TOLD,
    ("attempt", "reason"): TOLD,
    ("task", "payer"): "computed by the database",
    **{("task", name): WORK for name in (
        "family", "type", "attempt", "failures", "losses", "wait", "ready_at", "avoid",
        "submitted_at", "expires_at", "reason", "idempotency_key", "content_sha256", "lane",
        "batch", "fence", "parent", "parent_attempt", "chain", "budget_ub",
    )},
}  # fmt: skip
"""What nobody can contradict. Nor can anybody the first key's time, the price of an attempt that
failed, or parameters that move no credit: other rows of columns that are found."""

TABLES: Final = sorted({table for table, _ in FOUND.keys() | EXEMPT.keys()})

CHANGED: Final = {
    "bigint": "{0} + 1",
    "integer": "{0} + 1",
    "smallint": "{0} + 1",
    "double precision": "{0} + 0.25",
    "text": "left({0}, -1) || CASE right({0}, 1) WHEN 'z' THEN 'y' ELSE 'z' END",
    "bytea": "set_byte({0}, octet_length({0}) / 2, get_byte({0}, octet_length({0}) / 2) # 1)",
    "timestamp with time zone": "{0} + interval '1 second'",
    "uuid": "CAST(translate(CAST({0} AS text), '0123456789abcdef', '123456789abcdef0') AS uuid)",
    "json": "CAST(replace(CAST({0} AS text), 'true', 'false') AS json)",
}
"""Another value, by the type of the column."""


def changes(scene: Scene, table: str, column: str, row: str) -> Iterator[str]:
    """What to write in its place."""
    ((kind, nullable),) = scene.ask(
        "SELECT data_type, is_nullable FROM information_schema.columns"
        " WHERE table_schema = 'public' AND table_name = %s AND column_name = %s",
        (table, column),
    )
    ((value,),) = scene.ask(f"SELECT {column} FROM {table} WHERE {row}")
    assert value is not None
    if kind == "jsonb" and isinstance(value, dict):
        for name in value:
            yield f"jsonb_set({column}, '{{{name}}}', '{int(value[name]) + 1}')"
        name = next(iter(value))
        yield f"{column} - '{name}'"
        yield f"jsonb_set({column}, '{{{name}}}', '\"{value[name]}\"')"
    elif kind == "jsonb":
        yield f"'{value + 1}'"
        yield f"'\"{value}\"'"
    else:
        yield CHANGED[kind].format(column)
    if nullable == "YES":
        yield "NULL"


def test_an_installation_that_was_left_alone_has_nothing_wrong(
    scene: Scene, tmp_path: Path
) -> None:
    assert scene.found_by(tmp_path) == (None, "check: \nreplica: ")
    assert scene.ask("SELECT level, number FROM log_tile ORDER BY 1, 2") == [(0, 0), (0, 1)]
    kinds = {entries.decode(leaf)["type"] for leaf in leaves.entries(scene.engine, 0, 10**9)}
    assert kinds >= {"params", "open", "mint", "settle", "abort", "quota", "key", "clear",
                     "top_up", "epoch_close"}  # fmt: skip


def test_every_column_is_decided(scene: Scene) -> None:
    there = scene.ask(
        "SELECT table_name, column_name FROM information_schema.columns WHERE"
        " table_schema = 'public' AND (table_name = ANY(%s) OR table_name LIKE 'log\\_%%')",
        (TABLES,),
    )
    assert not FOUND.keys() & EXEMPT.keys()
    assert set(there) == FOUND.keys() | EXEMPT.keys()


@pytest.mark.parametrize(("table", "column"), FOUND)
def test_a_changed_value_is_found(scene: Scene, tmp_path: Path, table: str, column: str) -> None:
    row = OTHER_ROWS.get((table, column), ROWS[table])
    for number, value in enumerate(list(changes(scene, table, column, row))):
        with scene.broken(table, f"UPDATE {table} SET {column} = {value} WHERE {row}"):
            found, words = scene.found_by(tmp_path / str(number))
        assert found == FOUND[table, column], f"{value}: {words}"


def test_another_payer_of_a_free_task_is_found(scene: Scene, tmp_path: Path) -> None:
    free = "id NOT IN (SELECT transaction FROM posting)"
    task = f"(SELECT task FROM ledger_transaction WHERE {free})"
    update = f"UPDATE task SET client = 'P' WHERE id = {task}"
    with scene.broken("task", update):
        found, words = scene.found_by(tmp_path)
    assert found == By.CHECK
    assert "its payer is client:P, not client:R" in words


# A row more, a row less --------------------------------------------------------------------------

GONE: Final = {
    **{table: By.CHECK for table in ROWS if table != "log_cosignature"},
    "log_append": By.BOTH,
    "log_tile": By.BOTH,
}
"""A signature that is gone is in no other table: who else signs is not for the log to say."""


@pytest.mark.parametrize("table", GONE)
def test_a_row_less_is_found(scene: Scene, tmp_path: Path, table: str) -> None:
    with scene.broken(table, f"DELETE FROM {table} WHERE {ROWS[table]}"):
        found, words = scene.found_by(tmp_path)
    assert found == GONE[table], words


NEXT: Final = "(SELECT max(id) + 1 FROM ledger_transaction)"
SIZE: Final = "(SELECT max(size) FROM log_append)"
MORE: Final = {
    "account": ("('agent:Z', 0, 0, now(), 0)", By.CHECK),
    "ledger_transaction": (f"({NEXT}, 'mint', NULL, now(), {SIZE})", By.CHECK),
    "posting": (f"({LAST_PAID}, 'system:commons', 1)", By.CHECK),
    "epoch": ("(4, now(), 999, 999, 0, 0, 1000, now(), '{}', sha256(''), NULL)", By.CHECK),
    "log_append": (
        f"({SIZE} + 1, {SIZE}, 3, now(), '\\x0000', sha256(''), sha256(''), sha256(''))",
        By.CHECK,
    ),
    "log_tile": (
        "(0, 2, (SELECT hashes FROM log_tile WHERE number = 1), sha256(''))",
        By.BOTH,  # it is served instead of what stands there
    ),
    "log_key": (f"(3, '{key(3).key.encode()}', {SIZE} - 1, now())", By.CHECK),
    "log_checkpoint": (
        f"({SIZE}, (SELECT note FROM log_checkpoint WHERE size = {NEWEST}), now(), NULL)",
        By.CHECK,
    ),
    "log_cosignature": (
        f"({NEWEST}, '{key(51, 'w51', COSIGNER).key.encode()}',"
        f" (SELECT line FROM log_cosignature WHERE size = {NEWEST}), now())",
        By.CHECK,
    ),
    "task_result": ("((SELECT id FROM task WHERE state = 'INIT'), 'A', 1, 0, '1')", By.CHECK),
    "attempt": (
        f"({LAST_TASK}, 2, 'ABORTED', 'lost', NULL, 0, 0, '', 0, 0, 1, 1, '{START}')",
        By.CHECK,
    ),
}
"""The values of a row that does not belong there, and who finds it."""


@pytest.mark.parametrize("table", MORE)
def test_a_row_more_is_found(scene: Scene, tmp_path: Path, table: str) -> None:
    values, by = MORE[table]
    with scene.broken(table, f"INSERT INTO {table} VALUES {values}"):
        found, words = scene.found_by(tmp_path)
    assert found == by, words


def test_an_attempt_more_that_passed_is_found(scene: Scene, tmp_path: Path) -> None:
    row = f"({LAST_TASK}, 2, 'COMMITTED', 'ok', 'A', 0, 0, '', NULL, NULL, NULL, NULL, now())"
    with scene.broken("attempt", f"INSERT INTO attempt VALUES {row}"):
        assert scene.found_by(tmp_path)[0] == By.CHECK


# What was signed, and what it was signed over ----------------------------------------------------

SIGNED: Final[dict[str, Callable[[str], str]]] = {
    "name": lambda line: line.replace("— ", "— x", 1),
    "key id": lambda line: changed_at(line, line.rindex(" ") + 2),
    "blob": lambda line: changed_at(line, line.rindex(" ") + 20),
    "end": lambda line: line.removesuffix("\n"),
}
"""One part of a signature's line changed."""


def changed_at(text: str, place: int) -> str:
    """Another character of base64 in this place."""
    return f"{text[:place]}{'A' if text[place] != 'A' else 'B'}{text[place + 1 :]}"


@pytest.mark.parametrize("part", SIGNED)
def test_a_changed_signature_is_found(scene: Scene, tmp_path: Path, part: str) -> None:
    """Each line of each checkpoint: a replica sees the newest, which is served."""
    notes = scene.ask("SELECT size, note FROM log_checkpoint ORDER BY size")
    lines = [(size, note, line) for size, note in notes for line in signatures(note)]
    assert len(notes) == 3
    assert len(lines) == 4  # the one with the new key's announcement has two
    for size, note, line in lines:
        other = note.replace(line, SIGNED[part](line)).replace("'", "''")
        update = f"UPDATE log_checkpoint SET note = '{other}' WHERE size = {size}"
        with scene.broken("log_checkpoint", update):
            found, words = scene.found_by(tmp_path / f"{size} {line[-9:-1].replace('/', '-')}")
        assert found == (By.BOTH if size == notes[-1][0] else By.CHECK), words


def signatures(note: str) -> list[str]:
    return note.partition("\n\n")[2].splitlines(keepends=True)


@pytest.mark.parametrize("part", SIGNED)
def test_a_changed_cosignature_is_found(scene: Scene, tmp_path: Path, part: str) -> None:
    lines = scene.ask("SELECT size, line FROM log_cosignature ORDER BY size")
    assert len(lines) == 2
    for size, line in lines:
        update = f"UPDATE log_cosignature SET line = '{SIGNED[part](line)}' WHERE size = {size}"
        with scene.broken("log_cosignature", update):
            found, words = scene.found_by(tmp_path / str(size))
        # A line of an unknown key is not read by anybody; one that is cut off is no line.
        served = part == "end" and size == lines[-1][0]
        assert found == (By.BOTH if served else By.CHECK), words


@pytest.mark.parametrize(("column", "by"), [("hashes", By.CHECK), ("root", By.BOTH)])
def test_each_tile_is_what_the_leaves_make_of_it(
    scene: Scene, tmp_path: Path, column: str, by: By
) -> None:
    """Whoever replays computes the hashes himself, and compares with the roots."""
    for (number,) in scene.ask("SELECT number FROM log_tile"):
        changed = f"{column} = {CHANGED['bytea'].format(column)}"
        with scene.broken("log_tile", f"UPDATE log_tile SET {changed} WHERE number = {number}"):
            found, words = scene.found_by(tmp_path / str(number))
        assert found == by, words
        assert f"log tile 0/{number}: its {column}" in words


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (None, "it is missing"),
        ((1, 0, b"x" * 8192, b"x" * 32), "its hashes are not those below it"),
    ],
)
def test_a_tile_of_the_level_above_is_held_against_the_roots_below(
    row: tuple[Any, ...] | None, words: str
) -> None:
    hashes = [bytes([n]) * 32 for n in range(256)]
    root = EMPTY_EDGE.grown(hashes).root()
    below = [(0, n, b"".join(hashes), root) for n in range(256)]
    right = (1, 0, root * 256, EMPTY_EDGE.grown([root] * 256).root())
    for above, fault in ([right], None), ([row] if row else [], ("log tile 1/0", words)):
        tiles = Tiles(iter([*below, *above]))
        for _ in range(256):
            tiles.add(b"".join(hashes))
        tiles.end()
        assert tiles.fault == fault


def leaf(kind: str, at: str) -> bytes:
    """One that no ledger wrote; each has its form."""
    what: dict[str, Any] = {"epoch": 3, "at": at}
    task = "00000000-0000-7000-8000-000000000000"
    paid = [("client:R", -100), ("agent:A", 98), ("system:burn", 2)]
    done: dict[str, Any] = {
        **what, "task": task, "attempt": 1, "client": "client:R", "agent": "agent:A", "size": 1,
        "output_sha256": "0" * 64,
    }  # fmt: skip
    minted = [("system:issuance", -1), ("client:R", 1)]
    return {
        "mint": lambda: entries.mint(**what, account="client:R", postings=minted),
        "settle": lambda: entries.settle(**done, postings=paid),
        "burn": lambda: entries.settle(**done, postings=[("client:R", -100), ("agent:A", 100)]),
        "abort": lambda: entries.abort(**what, task=task, attempt=1, outcome="lost"),
        "quota": lambda: entries.quota(**what, account="client:R", quota_ub=5),
        "open": lambda: entries.open_account(**what, account="agent:Z", quota_ub=0),
        "key": lambda: entries.key(**what, old=key(2).key.encode(), new=key(3).key.encode()),
        "params": lambda: entries.params(**what, values=dict.fromkeys([*RULES, "epoch_s"], "0")),
        "time": lambda: entries.quota(
            **{**what, "at": "2026-01-01T12:24:00.001Z"}, account="client:R", quota_ub=0
        ),
        "freeze": lambda: entries.freeze(**what, account="agent:A", frozen=True, reason="none"),
        "penalty": lambda: entries.penalty(
            **what, reason="none", postings=[("client:R", -1), ("system:commons", 1)]
        ),
    }[kind]()


LEAVES: Final = {
    "mint": "no transaction has this mint leaf",
    "settle": "no transaction has this settle leaf",
    "burn": "the postings of a settlement of 100 are",
    "abort": "attempt 1 of task 00000000-0000-7000-8000-000000000000 is not kept",
    "quota": "account client:R: its quota is 0, in the log 5",
    "open": "account agent:Z: a leaf opened it, and it is gone",
    "key": "it announces a key that is not kept",
    "params": "parameter tau_ppm: it is 20000, in the log 0",
    "time": "it says 2026-01-01T12:24:00.001Z on a page of 2026-01-01T12:24:00.000Z",
    "freeze": "it says that agent:A was frozen",
    "penalty": "account client:R: its balance is",
}


@pytest.mark.parametrize("kind", LEAVES)
def test_a_leaf_for_which_nothing_happened_is_found(
    scene: Scene, tmp_path: Path, kind: str
) -> None:
    """Hashed, in the tree and in nobody's tables; no checkpoint holds it yet."""
    with scene.broken("log_append"), db.transaction(scene.engine) as connection:
        page = open_page(connection, START + timedelta(minutes=24))
        page.add(leaf(kind, page.at))
        page.write(connection)
        connection.commit()
        found, words = scene.found_by(tmp_path)
    assert found == By.CHECK
    assert LEAVES[kind] in words


def test_a_history_that_was_rewritten_whole_is_found(scene: Scene, tmp_path: Path) -> None:
    """Leaves, and all hashes, tiles and tables that say the same: but not what was signed."""
    pages = scene.ask("SELECT size, entries FROM log_append WHERE size > 0 ORDER BY size")
    statements = ["UPDATE task SET size = size + 1 WHERE size = 100"]
    edge, hashes = EMPTY_EDGE, b""
    for size, bundle in pages:
        rewritten = [
            item.replace(b'"size":"100"', b'"size":"101"') for item in decode_bundle(bundle)
        ]
        fresh = [leaf_hash(item) for item in rewritten]
        edge, hashes = edge.grown(fresh), hashes + b"".join(fresh)
        statements.append(
            f"UPDATE log_append SET entries = {literal(encode_bundle(rewritten))},"
            f" hashes = {literal(b''.join(fresh))}, edge = {literal(edge.encode())},"
            f" root = {literal(edge.root())} WHERE size = {size}"
        )
    for number in range(2):
        tile = [hashes[at : at + 32] for at in range(number * 8192, number * 8192 + 8192, 32)]
        statements.append(
            f"UPDATE log_tile SET hashes = {literal(b''.join(tile))},"
            f" root = {literal(EMPTY_EDGE.grown(tile).root())} WHERE number = {number}"
        )
    with scene.broken("task"), scene.broken("log_tile"), scene.broken("log_append", *statements):
        found, words = scene.found_by(tmp_path)
    assert found == By.BOTH
    assert words.count("it names another size or root than the log has") == 3
    assert "leaf" not in words


def literal(data: bytes) -> str:
    return f"'\\x{data.hex()}'"
