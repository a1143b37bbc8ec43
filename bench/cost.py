"""Where the CPU of a run goes: by process, and by step with the server work each step causes.

A PostgreSQL backend belongs to the process at the other end of its connection. Valkey is one
thread: its own statistics tell the saga's scripts and reads from Celery's messages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import psutil
import psycopg
import redis
from celery import Celery

from bench.processes import Children, meter

SCRIPTS = ("evalsha", "script|load", "hmget", "hgetall", "zrange", "zcard")
REST = "(rest)"
Used = dict[str, dict[str, float]]
"""CPU seconds: "process" by process, "backend" by process served, "valkey" by kind of command."""


def step_of(process: str) -> str:
    """The step that a process carries: its name without its number."""
    return process.rstrip("0123456789")


def start(children: Children, database_url: str, redis_url: str) -> Callable[[], Used]:
    """Starts counting; what it returns says what was used since."""
    backends = _backends(children, database_url)
    before = {pid: _cpu_s(pid) for pid in backends}
    commands = _commands_s(redis_url)
    processes = meter(children)

    def used() -> Used:
        found = processes()
        served: dict[str, float] = {}
        for pid, name in (backends | _backends(children, database_url)).items():
            served[name] = served.get(name, 0.0) + max(0.0, _cpu_s(pid) - before.get(pid, 0.0))
        served[REST] = found["postgres"] - sum(served.values())
        after = _commands_s(redis_url)
        scripts = after["scripts"] - commands["scripts"]
        return {
            "process": found,
            "backend": served,
            "valkey": {"scripts": scripts, "messages": max(0.0, found["valkey"] - scripts)},
        }

    return used


def by_step(used: Used) -> dict[str, dict[str, float]]:
    """CPU seconds per step: its own processes, and the backends that serve them."""
    found: dict[str, dict[str, float]] = {}
    for kind in ("process", "backend"):
        for name, cpu_s in used[kind].items():
            if kind == "process" and name in ("postgres", "valkey"):
                continue
            row = found.setdefault(step_of(name), {"process": 0.0, "backend": 0.0})
            row[kind] += cpu_s
    return found


def messages(broker_url: str) -> dict[str, int]:
    """How many messages of each step the workers have taken since they started."""
    app = Celery(broker=broker_url, set_as_current=False)
    try:
        stats: Mapping[str, Any] = app.control.inspect(timeout=1.5).stats() or {}
    finally:
        app.close()
    found: dict[str, int] = {}
    for worker in stats.values():
        for task, count in worker["total"].items():
            found[task] = found.get(task, 0) + count
    return found


def _backends(children: Children, database_url: str) -> dict[int, str]:
    """Pids of PostgreSQL backends, and the process at the other end of each."""
    ports: dict[int, str] = {}
    for name, child in children.items():
        with suppress(psutil.Error):
            for link in psutil.Process(child.pid).net_connections("tcp"):
                ports[link.laddr.port] = name
    with psycopg.connect(database_url) as connection:
        rows = connection.execute("SELECT pid, client_port FROM pg_stat_activity").fetchall()
    return {pid: ports[port] for pid, port in rows if port in ports}


def _cpu_s(pid: int) -> float:
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)


def _commands_s(redis_url: str) -> dict[str, float]:
    with redis.Redis.from_url(redis_url) as client:
        stats: Mapping[str, Mapping[str, Any]] = client.info("commandstats")
    scripts = sum(
        row["usec"] for name, row in stats.items() if name.removeprefix("cmdstat_") in SCRIPTS
    )
    return {"scripts": scripts / 1e6}
