"""What the harness must catch before it is believed: broken records, and bugs in the product.

A violation is an edit of a clean installation, past every trigger, by the tables' owner or in
Redis. A bug replaces a function, a statement or a script of the product while schedules are played.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

from sqlalchemy import Connection, Engine

import ledger.db
from ledger import intake, postings
from ledger.errors import Unavailable
from ledger.model import AttemptKey, Settlement, Verdict
from ledger.postings import Settled, TaskRow
from scheduler import scripts
from scheduler.reservations import Reservations
from scheduler.saga import Saga
from scheduler.scripts import Script
from tasks import commit, sweep, validate
from tests.chaos.checker import Ask
from tests.chaos.schedule import settle_down
from tests.chaos.schedule_stage import Stage
from tests.chaos.schedule_world import World

# Broken records ----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Broken:
    """An edit, and the invariant under whose id it must be reported."""

    name: str
    breaks: str
    sql: str = ""
    redis: Sequence[Any] = ()  # one command


def finished(stage: Stage) -> World:
    """A world in which a task was settled, one given up, one cancelled; its clients know."""
    stage.reset()
    world = World(stage, seed=1)
    with world.playing():
        here = world.processes[0]
        for name, family in (("settled", "good"), ("given-up", "bad"), ("cancelled", "good")):
            ask = Ask(
                id=name, client="rich", family=family, size=100, count=1, keyed=True, expires_s=None
            )
            world.ask(here, ask)
        world.cancel(here, world.record.tasks[2])
        settle_down(world)
        world.look(world.record.tasks)
    return world


def edit(stage: Stage, broken: Broken) -> None:
    """Break the stage. Its database is not to be used for anything else."""
    if broken.sql:
        with stage.owner.transaction():
            stage.owner.execute("SET LOCAL session_replication_role = replica")
            stage.owner.execute(broken.sql)
    if broken.redis:
        stage.do(*broken.redis)


COMMITTED = "(SELECT id FROM task WHERE state = 'COMMITTED')"
BROKEN = [
    Broken(
        name="a balance moved by hand", breaks="C1",
        sql="UPDATE account SET balance_ub = balance_ub + 1 WHERE id = 'client:rich'",
    ),
    Broken(
        name="a posting was changed", breaks="C1",
        sql="UPDATE posting SET amount_ub = amount_ub + 1 WHERE account = 'system:burn'",
    ),
    Broken(
        name="a transaction is gone", breaks="C1",
        sql="DELETE FROM ledger_transaction WHERE kind = 'settle'",
    ),
    Broken(
        name="a result of another price", breaks="C2",
        sql="UPDATE task_result SET cost_ub = cost_ub + 1",
    ),
    Broken(
        name="the whole record says another price than was quoted", breaks="C2",
        sql="""
            UPDATE task_result SET cost_ub = cost_ub + 1;
            UPDATE attempt SET cost_ub = cost_ub + 1 WHERE state = 'COMMITTED';
            UPDATE posting SET amount_ub = amount_ub - 1 WHERE account = 'client:rich'
                AND transaction = (SELECT max(id) FROM ledger_transaction);
            UPDATE posting SET amount_ub = amount_ub + 1 WHERE account = 'system:burn';
            UPDATE account SET balance_ub = balance_ub - 1 WHERE id = 'client:rich';
            UPDATE account SET balance_ub = balance_ub + 1 WHERE id = 'system:burn'""",
    ),
    Broken(
        name="an overtaken attempt was paid", breaks="C2",
        sql="UPDATE task SET attempt = attempt + 1 WHERE state = 'COMMITTED'",
    ),
    Broken(
        name="a wrong answer was paid", breaks="C2",
        sql="UPDATE task_result SET output = '\"wrong\"'",
    ),
    Broken(
        name="a cancelled task was paid", breaks="C2",
        sql="UPDATE task SET state = 'CANCELLED' WHERE state = 'COMMITTED'",
    ),
    Broken(
        name="a task has come back from its end", breaks="C3",
        sql="UPDATE task SET state = 'INIT', wait = 'credit', ended_at = NULL"
        " WHERE state = 'CANCELLED'",
    ),
    Broken(
        name="a task waits without a reason", breaks="C3",
        sql="ALTER TABLE task DROP CONSTRAINT task_check; ALTER TABLE task DROP CONSTRAINT"
        " task_check1; UPDATE task SET state = 'INIT', wait = NULL WHERE state = 'CANCELLED'",
    ),
    Broken(
        name="a task was given up for nothing", breaks="C3",
        sql="UPDATE task SET failures = 0 WHERE state = 'QUARANTINED'",
    ),
    Broken(
        name="two attempts were settled", breaks="C3",
        sql="INSERT INTO attempt (task, attempt, state, outcome, agent, cost_ub, latency_s,"
        " reason, ended_at) SELECT task, attempt + 1, state, outcome, agent, cost_ub,"
        " latency_s, reason, ended_at FROM attempt WHERE state = 'COMMITTED'",
    ),
    Broken(
        name="a balance is below its quota", breaks="C4",
        sql="ALTER TABLE account DROP CONSTRAINT balance_within_quota;"
        "UPDATE account SET balance_ub = -1 WHERE id = 'client:poor'",
    ),
    Broken(name="credit is reserved for nothing", breaks="C4",
           redis=("HINCRBY", "credit:client:rich", "reserved_ub", 5)),
    Broken(name="the delta of an attempt is left", breaks="C4",
           redis=("HSET", "saga:00000000-0000-7000-8000-000000000000:1", "state", "RESERVED")),
    Broken(name="a slot is taken by nobody", breaks="C5",
           redis=("HINCRBY", "pool:A", "in_flight", 1)),
    Broken(name="capacity has leaked", breaks="C5", redis=("HINCRBY", "pool:A", "y_mt", -1)),
    Broken(name="a pool is above its cap", breaks="C5",
           redis=("HINCRBY", "pool:C", "y_mt", 10**9)),
    Broken(
        name="an accepted task is gone", breaks="C10",
        sql="DELETE FROM task_body USING task WHERE task.id = task_body.task"
        " AND task.state = 'CANCELLED'; DELETE FROM task WHERE state = 'CANCELLED'",
    ),
    Broken(
        name="a task ended otherwise than its client was told", breaks="C10",
        sql="UPDATE task SET state = 'EXPIRED' WHERE state = 'CANCELLED'",
    ),
    Broken(
        name="one request became two tasks", breaks="C10",
        sql="CREATE TEMP TABLE again AS SELECT * FROM task WHERE state = 'CANCELLED';"
        "INSERT INTO task_body SELECT '00000000-0000-7000-8000-000000000000', payload"
        " FROM task_body WHERE task = (SELECT id FROM again);"
        "UPDATE again SET id = '00000000-0000-7000-8000-000000000000', idempotency_key = NULL;"
        "DO $$ DECLARE columns text; BEGIN"
        " SELECT string_agg(column_name, ', ') INTO columns FROM information_schema.columns"
        " WHERE table_schema = 'public' AND table_name = 'task' AND is_generated = 'NEVER';"
        " EXECUTE format('INSERT INTO task (%1$s) SELECT %1$s FROM again', columns);"
        " END $$; DROP TABLE again",
    ),
    Broken(name="an attempt never ends", breaks="C11", redis=("ZADD", "leases", 2**41, "x:1")),
]  # fmt: skip

UNFINISHED = Broken(
    name="a task hangs in its attempt", breaks="C11",
    sql="UPDATE task SET state = 'INIT', wait = 'attempt', ended_at = NULL,"
    " ready_at = now() + interval '1 year' WHERE state = 'CANCELLED'",
)  # fmt: skip


# Bugs --------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Bug:
    """A mutation of the product, and the invariants it may show itself by.

    `step` stands for a step that fails on an error of its own: here a constraint of the database
    says no before anything is broken.
    """

    name: str
    breaks: frozenset[str]
    planted: Callable[[], AbstractContextManager[object]]
    quick: bool = True  # the first dozen seeds catch it


def _script(verb: str, *changes: tuple[str, str]) -> Callable[[], AbstractContextManager[object]]:
    import hashlib

    text = scripts.SCRIPTS[verb].text
    for old, new in changes:
        assert old in text, f"{verb}.lua has no {old!r} any more: plant this bug in another way"
        text = text.replace(old, new)
    made = Script(text=text, sha=hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())
    return lambda: patch.dict(scripts.SCRIPTS, {verb: made})


def _statement(name: str, old: str, new: str) -> Callable[[], AbstractContextManager[object]]:
    real = ledger.db.sql
    assert old in real(name), f"{name}.sql has no {old!r} any more: plant this bug in another way"

    def sql(wanted: str) -> str:
        return real(wanted).replace(old, new) if wanted == name else real(wanted)

    return lambda: patch.object(ledger.db, "sql", sql)


def _instead(where: Any, name: str, other: object) -> Callable[[], AbstractContextManager[object]]:
    assert hasattr(where, name), f"{where} has no {name} any more: plant this bug in another way"
    return lambda: patch.object(where, name, other)


def _unchecked(key: AttemptKey, tasks: Mapping[str, TaskRow]) -> Settled:
    return Settled.ALREADY if tasks[key.task].state == "COMMITTED" else Settled.PAID


def _always_paid(_key: AttemptKey, _tasks: Mapping[str, TaskRow]) -> Settled:
    return Settled.PAID


_transaction = ledger.db.transaction
_release = Reservations.release
_settlement = commit.settlement


@contextmanager
def _hopeful(engine: Engine) -> Iterator[Connection]:
    try:
        with _transaction(engine) as connection:
            yield connection
    except Unavailable:
        pass


def _dearer(saga: Saga) -> Settlement:
    real = _settlement(saga)
    return replace(real, cost_ub=real.cost_ub + 1)


def _releases_settled_only(self: Reservations, sagas: Sequence[Saga], *, settled: bool) -> None:
    if settled:
        _release(self, sagas, settled=settled)


BUGS = [
    Bug(name="commit settles without the attempt check", breaks=frozenset({"C2", "C3", "C10"}),
        planted=_instead(postings, "_standing", _unchecked)),
    Bug(name="commit asked again pays again", breaks=frozenset({"C1", "C2", "step"}),
        planted=_instead(postings, "_standing", _always_paid)),
    Bug(name="commit pays another price than was quoted", breaks=frozenset({"C2"}),
        planted=_instead(commit, "settlement", _dearer)),
    Bug(name="every answer passes", breaks=frozenset({"C2"}),
        planted=_instead(validate, "judge", lambda *_: Verdict(passed=True, reason="well"))),
    Bug(name="release twice counts twice", breaks=frozenset({"C4", "C5"}), quick=False,
        planted=_script("release", ("if redis.call('DEL', KEYS[2]) == 0 then\n  return 0\nend",
                                    "redis.call('DEL', KEYS[2])"))),
    Bug(name="release keeps the credit", breaks=frozenset({"C4"}),
        planted=_script("release", ("redis.call('HINCRBY', KEYS[3], 'reserved_ub', ARGV[3])",
                                    ""))),
    Bug(name="abort does not release", breaks=frozenset({"C4", "C5", "C11"}),
        planted=_instead(Reservations, "release", _releases_settled_only)),
    Bug(name="the sweeper forgets", breaks=frozenset({"C4", "C5", "C11"}),
        planted=_instead(sweep, "_resume", lambda *_: None)),
    Bug(name="a task that is put back is dropped", breaks=frozenset({"C3"}),
        planted=_statement("put_back", "ready_at = b.ready_at",
                           "ready_at = b.ready_at + interval '1 year'")),
    Bug(name="a claim never ends", breaks=frozenset({"C3", "C11"}),
        planted=_statement("claim", "make_interval(secs => r.deadline_s",
                           "interval '1 year' + make_interval(secs => r.deadline_s")),
    Bug(name="the intake answers before it has committed", breaks=frozenset({"C10"}), quick=False,
        planted=_instead(intake, "transaction", _hopeful)),
    Bug(name="the intake forgets keys", breaks=frozenset({"C10"}),
        planted=_statement("submit", "g.expires_at, g.idempotency_key,", "g.expires_at, NULL,")),
    Bug(name="a settled task can be cancelled", breaks=frozenset({"C2", "C3", "C10"}),
        planted=_statement("cancel", "AND state = 'INIT'", "")),
    Bug(name="a settled task expires", breaks=frozenset({"C2", "C3", "C10"}),
        planted=_statement("expire", "state = 'INIT' AND expires_at", "expires_at")),
    Bug(name="everybody who is told to calls", breaks=frozenset({"C3"}),
        planted=_script("begin", ("~= 'RESERVED'", "== false"))),
    Bug(name="a reservation is made twice", breaks=frozenset({"C4", "C5"}),
        planted=_script("reserve", ("return 'DUPLICATE'", "local again = true"))),
    Bug(name="a reservation takes no slot", breaks=frozenset({"C5"}),
        planted=_script("reserve", ("redis.call('HINCRBY', KEYS[1], 'in_flight', 1)", ""))),
    Bug(name="a claim keeps the number of the last one", breaks=frozenset({"C3", "C11", "step"}),
        planted=_statement("claim", "attempt = t.attempt + 1",
                           "attempt = greatest(1, t.attempt)")),
]  # fmt: skip
