"""Whether the dispatcher is alive can be seen from outside (rows M04, M30)."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
from sqlalchemy import Engine

from tasks.context import Context, bind
from tests.makers import install
from tests.stack import await_true
from workers import alive, dispatcher
from workers.dispatcher import LINE_MAX, Dispatcher


@pytest.fixture(autouse=True)
def _every_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher, "BEAT_S", 0.0)


@pytest.fixture
def heartbeat(tmp_path: Path) -> Path:
    return tmp_path / "alive"


@pytest.fixture
def running(engine: Engine, context: Context, now: datetime, heartbeat: Path) -> Iterator[None]:
    install(engine, now)
    bind(context)
    loop = Dispatcher(context, lambda: 0, heartbeat)
    thread = threading.Thread(target=loop.run)
    thread.start()
    yield
    loop.stop()
    thread.join()


@pytest.mark.usefixtures("running")
def test_it_says_that_its_loop_turns(heartbeat: Path) -> None:
    for _ in range(3):
        await_true("it says so", lambda: heartbeat.exists() and heartbeat.read_text())
        assert alive.worker(heartbeat) is None
        assert heartbeat.read_text() == str(os.getpid())
        heartbeat.unlink()


def test_it_is_alive_while_it_waits_for_its_workers(context: Context, heartbeat: Path) -> None:
    told: list[bool] = []

    def line() -> int:
        told.append(heartbeat.exists())
        heartbeat.unlink(missing_ok=True)
        return LINE_MAX if len(told) < 3 else 0

    Dispatcher(context, line, heartbeat)._gather()
    assert told == [False, True, True]


@pytest.mark.usefixtures("engine")
def test_a_dispatcher_that_hangs_is_found_out(
    database_url: str, redis_url: str, heartbeat: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although there is nothing to dispatch."""
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("REDIS_URL", redis_url)
    monkeypatch.setenv("CLEARLANE_HEARTBEAT_FILE", str(heartbeat))
    assert "not connected yet" in str(alive.dispatcher())
    alive.beat(heartbeat)
    assert alive.dispatcher() is None
    old = time.time() - alive.HEARTBEAT_AGE_S - 1
    os.utime(heartbeat, (old, old))
    assert "s old" in str(alive.dispatcher())
