"""A Valkey that refuses, loads, was wiped or crashed is waited for; no process ends over it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
from sqlalchemy import Engine

from ledger.db import transaction
from ledger.errors import Unavailable
from scheduler.away import Refusing
from scheduler.connection import connect
from scheduler.reservations import Reservations
from tests.gateways import serving, until
from tests.oneworker import environment
from tests.servers import await_ready, running, scratch
from tests.stack import await_true
from workers import home as homes
from workers import servers
from workers.gateway.readiness import UNFIT
from workers.servers import Server

LOCK = "redbeat::lock"
BEAT = ("beat", "-S", "workers.beat:Scheduler", "--pidfile", "", "-l", "INFO")
WORKER = (
    *("worker", "-P", "solo", "-Q", "reserve,execute,validate,commit,control", "-n", "w@test"),
    *("--without-gossip", "--without-mingle", "-l", "INFO"),
)


class Broker:
    """A Valkey of one test, which it may kill and make refuse."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.server: Server = servers.valkey(place)
        self.client: redis.Redis = connect(self.server.url)

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """It cannot save its data, as on a full disk, and so takes no change."""
        in_the_way = self.place / "valkey" / "dump.rdb"
        in_the_way.mkdir()
        self.client.config_set("save", "3600 1")
        self.client.bgsave()
        await_true(
            "nothing is written", lambda: self.persistence("rdb_last_bgsave_status") == "err"
        )
        yield
        self.client.config_set("save", "")
        in_the_way.rmdir()

    def persistence(self, name: str) -> str:
        return str(self.client.info("persistence")[name])


@pytest.fixture
def broker() -> Iterator[Broker]:
    with scratch() as directory:
        found = Broker(homes.prepare(directory))
        with running(found.server.process, found.place):
            await_ready(found.server.process, found.place)
            yield found


@contextmanager
def process(env: dict[str, str], log: Path, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """A Celery process, which must be alive when the block ends."""
    with log.open("ab") as out:
        child = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "workers", *words],
            env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
        )  # fmt: skip
    try:
        yield child
        assert child.poll() is None, log.read_text()[-3000:]
    finally:
        child.kill()
        child.wait()


def said(log: Path, words: str, start: int = 0) -> Callable[[], bool]:
    return lambda: words in log.read_text()[start:]


def test_a_server_that_takes_no_change_is_away(broker: Broker) -> None:
    """Not an error of the command, which nobody waits for; and the remedy is another one."""
    at = Reservations(broker.client)
    with broker.refusing():
        with pytest.raises(Unavailable, match=r"it takes no change: .*; make room") as told:
            at.fence({"default": 1})
        assert isinstance(told.value.__cause__, Refusing)
        with pytest.raises(Unavailable):
            at.check_writes()
        with pytest.raises(redis.ConnectionError):
            broker.client.set("x", "y")
    at.fence({"default": 1})
    at.check_writes()
    broker.client.config_set("maxmemory", 1)
    with pytest.raises(Unavailable, match="make room"):
        at.check_writes()
    broker.client.config_set("maxmemory", 0)
    broker.client.replicaof("127.0.0.1", "1")
    with pytest.raises(Unavailable, match="it takes no change"):
        at.check_writes()


def test_beat_outlives_a_full_disk_a_wipe_and_a_crash(broker: Broker, tmp_path: Path) -> None:
    log = tmp_path / "beat.log"
    url = broker.server.url
    env = environment("postgresql://nobody@127.0.0.1:1/none", url, CELERY_BROKER_URL=url)

    def has_lock() -> bool:
        return bool(broker.client.exists(LOCK) and broker.client.exists("redbeat::schedule"))

    with process(env, log, *BEAT):
        await_true("beat has its lock", has_lock)
        with broker.refusing():
            await_true("it waits", said(log, "beat waits"))
        broker.client.flushall()
        await_true("it has its lock and its schedule again", has_lock)
        sent = len(log.read_text())
        await_true("hints are sent", said(log, "Sending due task", sent))
        broker.client.delete(LOCK)
        await_true("it has its lock again", has_lock)
        os.kill(int(broker.client.info("server")["process_id"]), signal.SIGKILL)
        down = len(log.read_text())
        await_true("it waits", said(log, "beat waits", down))
        with restarted(broker):
            back = len(log.read_text())
            await_true("hints are sent", said(log, "Sending due task", back))


@contextmanager
def restarted(broker: Broker) -> Iterator[None]:
    with running(broker.server.process, broker.place):
        await_ready(broker.server.process, broker.place)
        yield


def test_a_worker_waits_for_a_server_that_takes_no_change(
    broker: Broker, database_url: str, tmp_path: Path
) -> None:
    log = tmp_path / "worker.log"
    env = environment(database_url, broker.server.url, CELERY_BROKER_URL=broker.server.url)
    broken = "Connection to broker lost"
    with process(env, log, *WORKER):
        await_true("it is ready", said(log, "ready"))
        assert "superuser privileges" not in log.read_text(), "that is about pickle"
        with broker.refusing():
            await_true("it notices", said(log, broken))
            await_true("it waits", said(log, "Trying again"))
        back = len(log.read_text())
        await_true("it is connected again", said(log, "Connected to", back), 120)


def test_the_gateway_is_not_ready_while_redis_takes_no_change(
    broker: Broker, database_url: str
) -> None:
    with serving(database_url, broker.server.url) as gateway:
        until(lambda: gateway.ask("GET", "/readyz").status == 200)
        with broker.refusing():
            until(lambda: gateway.ask("GET", "/readyz").status == 503)
            checks = gateway.ask("GET", "/readyz").body["checks"]
            assert (checks["postgresql"], checks["redis"]) == ("ok", UNFIT)
        until(lambda: gateway.ask("GET", "/readyz").status == 200)


def test_a_full_disk_of_postgresql_has_its_own_remedy(engine: Engine) -> None:
    full = "DO $$ BEGIN RAISE 'could not extend file' USING ERRCODE = 'disk_full'; END $$"
    with (
        pytest.raises(Unavailable, match=r"^postgresql: could not extend file; make room on the"),
        transaction(engine) as connection,
    ):
        connection.exec_driver_sql(full)
