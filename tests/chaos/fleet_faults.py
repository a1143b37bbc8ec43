"""The faults, by name: each is let loose on a campaign under load and has ended when it returns."""

from __future__ import annotations

import base64
import json
import random
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

import psutil
import psycopg
import redis
from celery import Celery

from tests.chaos.stack import DEADLINE_S, FRONT, MARGIN_S, POOLS, SWEEP_S, Campaign
from tests.stack import await_true

QUEUES = ("reserve", "execute", "validate", "commit", "control")
LEASE_S = DEADLINE_S + MARGIN_S
TABLES = ("task", "task_result", "attempt", "ledger_transaction", "posting")
HOURS = 7200.0

Fault = Callable[[Campaign, random.Random], None]


def last(rng: random.Random, most_s: float = 1.5) -> None:
    """How long a fault lasts: nothing tells its end but the hand that made it."""
    time.sleep(rng.uniform(0.2, most_s))


# Processes ----------------------------------------------------------------------------------------


def kill_pool(c: Campaign, rng: random.Random) -> None:
    c.kill(rng.choice(POOLS))


def kill_front(c: Campaign, rng: random.Random) -> None:
    c.kill(rng.choice(FRONT))


def pause_past_lease(c: Campaign, rng: random.Random) -> None:
    """A holder sleeps until the sweeper has given its attempts away, then goes on."""
    with c.paused(rng.choice(POOLS[:4])):
        time.sleep(LEASE_S + SWEEP_S)


def restart_pools(c: Campaign, rng: random.Random) -> None:
    """As an upgrade does it: one pool after the other is stopped in order and started again."""
    for name in rng.sample(POOLS, 2):
        await_true(f"{name} runs", partial(_runs, c, name))
        process = psutil.Process(c.pids()[name])
        process.terminate()
        process.wait(30)
        await_true(f"{name} runs again", partial(_runs, c, name))


def _runs(c: Campaign, name: str) -> bool:
    pid = c.pids().get(name)
    return pid is not None and psutil.pid_exists(pid)


def double_everyone(c: Campaign, rng: random.Random) -> None:
    """Two dispatchers, two beats that both run, two of each worker; the cron jobs all at once."""
    worker = ("celery", "-A", "workers", "worker", "-P", "solo", "--without-gossip")
    commands = [
        ("workers.dispatcher",),
        ("celery", "-A", "workers", "beat", "-s", str(c.home / f"beat{rng.random()}")),
        *((*worker, "-Q", queue, "-n", f"{queue}2@%h") for queue in rng.sample(QUEUES, 2)),
    ]
    with c.beside(*commands), sender(c) as celery:
        for _ in range(20):
            celery.send_task("cron.sweep", queue="control")
            celery.send_task("cron.snapshot", queue="control")
        time.sleep(rng.uniform(2.0, 4.0))


def shift_clock(c: Campaign, rng: random.Random) -> None:
    for seconds in rng.sample((-HOURS, HOURS), 2):
        with c.clock.shifted(seconds):
            last(rng, 3.0)
        last(rng)


# PostgreSQL ---------------------------------------------------------------------------------------


def kill_postgres(c: Campaign, rng: random.Random) -> None:
    c.kill("postgres")


def restart_postgres(c: Campaign, rng: random.Random) -> None:
    c.postgres.stop()
    c.postgres.start()


def terminate_backends(c: Campaign, rng: random.Random) -> None:
    for _ in range(rng.randint(1, 5)):
        c.postgres.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name LIKE 'clearlane%%' AND random() < %s",
            [rng.choice((0.3, 1.0))],
        )
        last(rng, 0.4)


def cut_postgres(c: Campaign, rng: random.Random) -> None:
    for _ in range(rng.randint(1, 5)):
        c.to_postgres.cut()
        last(rng, 0.4)
    with c.to_postgres.refusing():
        last(rng)


def hole_postgres(c: Campaign, rng: random.Random) -> None:
    with c.to_postgres.holed():
        last(rng, 3.0)


def lose_commit_replies(c: Campaign, rng: random.Random) -> None:
    lost = c.to_postgres.commits_lost + rng.randint(3, 10)
    c.to_postgres.lose_commits(lost - c.to_postgres.commits_lost)
    await_true("the replies are lost", lambda: c.to_postgres.commits_lost >= lost)


def stall_postgres(c: Campaign, rng: random.Random) -> None:
    with c.postgres.stalled():
        time.sleep(rng.choice((2.0, 5.0)))


def stall_postgres_long(c: Campaign, rng: random.Random) -> None:
    with c.postgres.stalled():
        time.sleep(20.0)


def fill_disk(c: Campaign, rng: random.Random) -> None:
    """Every statement that would add or change a row fails with 53100, as on a full disk.

    Triggers raise it: a real full disk cannot be made without root. What they cannot show is a
    full disk under the write-ahead log, which ends the server (`kill_postgres`).
    """
    c.postgres.sql(
        "CREATE OR REPLACE FUNCTION chaos_full() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " RAISE EXCEPTION 'could not extend file: No space left on device'"
        " USING ERRCODE = '53100'; END $$"
    )
    struck = rng.sample(TABLES, rng.randint(1, len(TABLES)))
    for table in struck:
        c.postgres.sql(
            f"CREATE TRIGGER chaos_full BEFORE INSERT OR UPDATE ON {table}"
            " FOR EACH STATEMENT EXECUTE FUNCTION chaos_full()"
        )
    try:
        last(rng)
    finally:
        for table in struck:
            c.postgres.sql(f"DROP TRIGGER chaos_full ON {table}")


def deadlock(c: Campaign, rng: random.Random) -> None:
    """40P01: a second session takes accounts, then tasks, the other way round than a settlement.

    Its own deadlock timeout is long, so that the victim is always one of ours.
    """
    end = time.monotonic() + rng.uniform(2.0, 4.0)
    while time.monotonic() < end:
        with suppress(psycopg.Error), psycopg.connect(c.postgres.url) as connection:
            connection.execute("SET deadlock_timeout = '60s'")
            connection.execute("SET statement_timeout = '10s'")
            connection.execute("SELECT id FROM account ORDER BY id DESC FOR UPDATE")
            last(rng, 0.4)
            connection.execute("SELECT id FROM task WHERE state = 'INIT' FOR UPDATE")


def serialize(c: Campaign, rng: random.Random) -> None:
    """40001: all new transactions are SERIALIZABLE, and PostgreSQL refuses those that meet."""
    name = "clearlane"
    c.postgres.sql(f"ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'")
    try:
        c.to_postgres.cut()
        time.sleep(rng.uniform(2.0, 4.0))
    finally:
        c.postgres.sql(f"ALTER DATABASE {name} RESET default_transaction_isolation")
        c.to_postgres.cut()


# Valkey -------------------------------------------------------------------------------------------


def kill_valkey(c: Campaign, rng: random.Random) -> None:
    c.kill("valkey")


def lose_valkey(c: Campaign, rng: random.Random) -> None:
    """Killed, and nothing of it was on disk."""
    c.valkey.kill()
    c.valkey.forget()
    last(rng)
    c.valkey.start()


def flush_valkey(c: Campaign, rng: random.Random) -> None:
    with c.valkey.valkey() as client:
        for _ in range(rng.randint(1, 3)):
            client.flushall()
            last(rng, 0.5)


def age_valkey(c: Campaign, rng: random.Random) -> None:
    """Killed, and started on what it knew some seconds ago."""
    with c.valkey.valkey() as client:
        client.config_set("appendonly", "no")
        last(rng, 2.0)
    c.valkey.kill()
    c.valkey.start()


def stall_valkey(c: Campaign, rng: random.Random) -> None:
    with c.valkey.stalled():
        time.sleep(2.0)


def stall_valkey_long(c: Campaign, rng: random.Random) -> None:
    with c.valkey.stalled():
        time.sleep(10.0)


def fill_valkey(c: Campaign, rng: random.Random) -> None:
    """maxmemory is reached: with noeviction every write is refused."""
    with c.valkey.valkey() as client:
        client.config_set("maxmemory", "1mb")
        try:
            last(rng, 3.0)
        finally:
            client.config_set("maxmemory", "512mb")


def cut_valkey(c: Campaign, rng: random.Random) -> None:
    for _ in range(rng.randint(1, 5)):
        c.to_valkey.cut()
        last(rng, 0.4)
    with c.to_valkey.refusing():
        last(rng)


def hole_valkey(c: Campaign, rng: random.Random) -> None:
    with c.to_valkey.holed():
        last(rng, 3.0)


# Messages -----------------------------------------------------------------------------------------


def tamper(c: Campaign, rng: random.Random) -> None:
    """Messages that wait are repeated, lost, put in another order, spoiled and aged."""
    await_true("the workers run", lambda: {*POOLS} <= {*c.pids()})
    before = c.started()
    for name in rng.sample(QUEUES[:4], 2):
        with c.valkey.valkey() as client, c.paused(f"{name}1"):
            await_true(f"messages wait in {name}", partial(_waiting, client, name))
            _edit(client, name, rng)
        with c.valkey.valkey() as client:
            await_true(f"{name} is taken", lambda: not client.llen(name))  # noqa: B023
    after = c.started()
    ended = [name for name in before if after.get(name) != before[name]]
    assert not ended, "\n".join([f"a message ended {ended}", *map(c.said, ended)])


def _waiting(client: redis.Redis, queue: str) -> bool:
    return int(client.llen(queue)) >= 1  # one alone may hold all that the fleet has room for


def _edit(client: redis.Redis, queue: str, rng: random.Random) -> None:
    waiting = client.lrange(queue, 0, -1)
    assert isinstance(waiting, list)
    kept = [text for text in waiting if rng.random() < 0.8]  # the rest is lost
    kept += rng.choices(waiting, k=3)
    kept += [spoiled(text, rng) for text in rng.choices(waiting, k=6)]
    rng.shuffle(kept)
    with client.pipeline() as pipe:
        pipe.delete(queue)
        pipe.rpush(queue, *kept)
        pipe.execute()


def spoiled(text: str | bytes, rng: random.Random) -> str:
    """A message as an older version, a broken sender or a stranger would have left it."""
    message = json.loads(text)
    arguments, named, embed = json.loads(base64.b64decode(message["body"]))
    pairs = arguments[0] if arguments else []
    message["properties"]["delivery_tag"] = str(uuid.UUID(int=rng.getrandbits(128)))
    match rng.randrange(7):
        case 0:
            arguments = [[pair[0] for pair in pairs]]  # tasks without their attempts
        case 1:
            arguments = [pairs, "v0"]
        case 2:
            message["headers"]["task"] = f"old.{message['headers']['task']}"
        case 3:
            message["headers"] |= {"id": None, "lang": "js", "root_id": 7}
        case 4:
            message["content-type"] = "application/x-python-serialize"
        case 5:
            message["body"] = message["body"][:-7]
            return json.dumps(message)
        case _:
            message["properties"]["body_encoding"] = "none"
    body = json.dumps([arguments, named, embed])
    message["body"] = base64.b64encode(body.encode()).decode()
    return json.dumps(message)


@contextmanager
def sender(c: Campaign) -> Iterator[Celery]:
    with Celery(broker=c.valkey.url, set_as_current=False) as app:
        app.conf.task_ignore_result = True
        yield app


FAULTS: dict[str, Fault] = {
    fault.__name__: fault
    for fault in (
        kill_pool, kill_front, pause_past_lease, restart_pools, double_everyone, shift_clock,
        kill_postgres, restart_postgres, terminate_backends, cut_postgres, hole_postgres,
        lose_commit_replies, stall_postgres, stall_postgres_long, fill_disk, deadlock, serialize,
        kill_valkey, lose_valkey, flush_valkey, age_valkey, stall_valkey, stall_valkey_long,
        fill_valkey, cut_valkey, hole_valkey, tamper,
    )
}  # fmt: skip
