"""The process table of the whole product on one machine (row M09).

Stages start one after the other and stop in the opposite order: servers, agents, Celery workers,
then whoever gives them work.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from ledger.errors import BadInput, Unavailable
from workers import home as homes
from workers import probes, servers
from workers.probes import Fault, Refusal
from workers.process import Process
from workers.restarts import RestartPolicy
from workers.settings import Settings
from workers.supervisor import Addresses, Stage

POOLS = ("reserve", "execute", "validate", "commit", "control")
"""Celery queues; each has workers of its own, so that a slow step never holds up another."""

EXTERNAL_TIMEOUT_S = 5.0
REFUSED = {
    Fault.PASSWORD: ("the server answers and does not let us in", "correct user and password"),
    Fault.DATABASE: ("the server answers and has no such database", "create it, or correct it"),
}
FLOWER_SAVE_MS = 60_000
FLOWER_TASKS_MAX = 20_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Stack:
    """What `up` runs: where it will answer, and the processes in order."""

    addresses: Addresses
    stages: tuple[Stage, ...]


def plan(
    settings: Settings,
    home: Path,
    *,
    prepare: Callable[[str], None],
    extra: Sequence[Process] = (),
) -> Stack:
    """Everything `up` will run; the embedded servers' data is made here.

    `prepare` gets the database's URL once the servers answer, before anything else starts: it
    migrates and configures. `extra` starts before the workers. A server whose URL is given is
    not started but has to answer: Unavailable says which does not.
    """
    # What may be refused comes first: nothing was made then.
    check_ports(settings)
    if settings.cron_file is not None:
        from workers.jobfile import cron_table  # the gateway reads this module too, without Celery

        cron_table(settings)
    _check_given(settings)
    gateway_port = homes.port(home, "gateway", settings.gateway_port)
    flower_port = homes.port(home, "flower", settings.flower_port)
    log_policy = settings.log_policy
    database = None if settings.database_url else servers.postgres(home)
    redis = None if settings.redis_url else servers.valkey(home)
    addresses = Addresses(
        database_url=database.url if database else str(settings.database_url),
        redis_url=redis.url if redis else str(settings.redis_url),
        gateway_url=f"http://127.0.0.1:{gateway_port}",
        flower_url=f"http://127.0.0.1:{flower_port}",
        log_policy=str(log_policy.expanduser().absolute()) if log_policy else None,
    )
    broker_url = settings.celery_broker_url or addresses.redis_url
    env = _environment(settings, home, addresses, broker_url)
    embedded = tuple(server.process for server in (database, redis) if server)
    stages = (
        Stage(processes=embedded, then=partial(prepare, addresses.database_url)),
        Stage(processes=tuple(replace(p, env={**env, **p.env}) for p in extra)),
        Stage(processes=_workers(settings, broker_url, env)),
        Stage(processes=_front(home, addresses, env, _flower_login(home))),
    )
    return Stack(addresses=addresses, stages=stages)


def policy(settings: Settings) -> RestartPolicy:
    """The restart policy the operator chose."""
    return RestartPolicy(
        budget=settings.restart_budget,
        window_s=settings.restart_window_s,
        first_s=settings.backoff_first_s,
        max_s=settings.backoff_max_s,
    )


def check_ports(settings: Settings) -> None:
    """Raises BadInput for a port that was asked for and cannot be had."""
    if settings.gateway_port and settings.gateway_port == settings.flower_port:
        raise BadInput(
            "CLEARLANE_FLOWER_PORT",
            f"port {settings.flower_port} is that of the gateway, CLEARLANE_GATEWAY_PORT",
            "choose another port, or 0 for any free one",
        )
    for name in ("gateway", "flower"):
        if wanted := getattr(settings, f"{name}_port"):
            homes.check_port(name, wanted)


def _check_given(settings: Settings) -> None:
    if settings.database_url:
        _require("DATABASE_URL", partial(probes.database_refusal, settings.database_url))
    if settings.redis_url:
        _require("REDIS_URL", partial(probes.redis_refusal, settings.redis_url))
    if settings.celery_broker_url and settings.celery_broker_url != settings.redis_url:
        _require("CELERY_BROKER_URL", partial(probes.redis_refusal, settings.celery_broker_url))


def _require(name: str, ask: Callable[[], Awaitable[Refusal | None]]) -> None:
    """Wait a moment for a server that is not ours; it may be starting beside us."""

    async def answered() -> Refusal | None:
        deadline = time.monotonic() + EXTERNAL_TIMEOUT_S
        while (refusal := await ask()) is not None and refusal.fault is Fault.AWAY:
            if time.monotonic() >= deadline:
                break
            await asyncio.sleep(0.2)
        return refusal

    refusal = asyncio.run(answered())
    if refusal is None:
        return
    if refusal.fault is Fault.AWAY:
        raise Unavailable(
            name,
            f"the server does not answer: {refusal.reason}",
            "start it, correct its address, or unset it for an embedded server",
        )
    said, remedy = REFUSED[refusal.fault]
    raise BadInput(name, f"{said}: {refusal.reason}", remedy)


def _environment(
    settings: Settings, home: Path, addresses: Addresses, broker_url: str
) -> Mapping[str, str]:
    files = {
        "CLEARLANE_CRON_FILE": settings.cron_file,
        "CLEARLANE_LOG_KEY_FILE": settings.log_key_file,
        "CLEARLANE_LOG_POLICY": settings.log_policy,
    }
    return {
        **os.environ,
        # Absolute: whoever runs `up` may stand elsewhere than the processes.
        **{name: f"{path.expanduser().absolute()}" for name, path in files.items() if path},
        "DATABASE_URL": addresses.database_url,
        "REDIS_URL": addresses.redis_url,
        "CELERY_BROKER_URL": broker_url,
        "CLEARLANE_DATA": str(home),
        "PYTHONUNBUFFERED": "1",  # a log line is on disk before its process can die
    }


def _workers(settings: Settings, broker_url: str, env: Mapping[str, str]) -> tuple[Process, ...]:
    counts = {pool: int(getattr(settings, f"{pool}_workers")) for pool in POOLS}
    return tuple(
        _worker(pool, f"{pool}{number}", broker_url, env)
        for pool, count in counts.items()
        for number in range(1, count + 1)
    )


def _worker(pool: str, name: str, broker_url: str, env: Mapping[str, str]) -> Process:
    return Process(
        name=name,
        argv=(
            *_python("celery", "-A", "workers", "worker", "-P", "solo", "-Q", pool),
            *("-n", f"{name}@%h", "--without-gossip", "--without-mingle", "-E", "-l", "INFO"),
        ),
        env=env,
        ready=partial(probes.celery_ready, broker_url, f"{name}@{socket.gethostname()}"),
    )


def _flower_login(home: Path) -> str:
    """Whoever may read the home may look: other users of this machine, and pages in a browser whose
    name was made to resolve to it, know neither."""
    login = f"operator:{homes.secret(home, 'flower')}"
    homes.write_private(home / homes.FLOWER_LOGIN, f"{login}\n")
    return login


def _front(
    home: Path, addresses: Addresses, env: Mapping[str, str], login: str
) -> tuple[Process, ...]:
    """The dispatcher, beat, and the two that people look at."""
    gateway_port = addresses.gateway_url.rpartition(":")[2]
    flower_port = addresses.flower_url.rpartition(":")[2]
    beat = _python("celery", "-A", "workers", "beat", "-S", "workers.beat:Scheduler", "-l")
    flower = (
        *_python("celery", "-A", "workers", "flower", "--address=127.0.0.1"),
        *(f"--port={flower_port}", "--read_only=True", f"--max_tasks={FLOWER_TASKS_MAX}"),
        # Its history is otherwise written only at an orderly end.
        *(
            "--persistent=True",
            f"--db={home / 'flower' / 'history'}",
            f"--state_save_interval={FLOWER_SAVE_MS}",
        ),
    )
    return (
        Process(name="dispatcher", argv=_python("workers.dispatcher"), env=env, settle_s=2.0),
        Process(name="beat", argv=(*beat, "INFO"), env=env, settle_s=2.0),
        Process(
            name="flower",
            argv=flower,
            env={**env, "FLOWER_BASIC_AUTH": login},
            ready=partial(probes.http_ready, f"{addresses.flower_url}/healthcheck"),
        ),
        Process(
            name="gateway",
            argv=_python("workers.gateway", "--port", gateway_port),
            env=env,
            ready=partial(probes.http_ready, f"{addresses.gateway_url}/readyz"),
        ),
    )


def _python(module: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", module, *arguments)
