"""The reference: bare Celery, chains of four tasks that do nothing, results ignored.

Also the worker's module: `celery -A bench.celery_chain worker`.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import redis
from celery import Celery, chain

from bench.processes import Children, meter, require_alive, together
from workers.probes import celery_ready
from workers.process import Process

STEPS = 4
QUEUE = "bench"
STAGED = "bench.staged"  # nobody consumes it; it is renamed to QUEUE when the clock starts
ENDS = "bench.ends"
POLL_S = 0.02
EMPTY_POLLS = 5  # a task that runs is in no list for a moment: emptiness has to last
STALL_S = 120.0
WARM_CHAINS = 50

app = Celery("bench", broker=os.environ.get("BENCH_BROKER_URL"))
app.conf.update(
    task_default_queue=QUEUE,
    task_ignore_result=True,
    broker_connection_retry_on_startup=True,
)
_clients: list[redis.Redis] = []


@app.task(name="bench.step")  # type: ignore[untyped-decorator]
def step() -> None:
    """Do nothing."""


@app.task(name="bench.end")  # type: ignore[untyped-decorator]
def end(chain_id: int) -> None:
    """The last of a chain that somebody waits for."""
    if not _clients:
        _clients.append(redis.Redis.from_url(app.conf.broker_url))
    _clients[0].lpush(ENDS, chain_id)


@dataclass(frozen=True, kw_only=True, slots=True)
class Setup:
    """One way to run the bare workers. `chains` is the backlog: at least about five seconds."""

    name: str
    workers: int
    options: tuple[str, ...]
    chains: int


TUNED = ("--without-gossip", "--without-mingle", "--without-heartbeat", "--prefetch-multiplier=16")
SETUPS = (
    Setup(name="prefork 2", workers=1, options=("-P", "prefork", "-c", "2"), chains=2_400),
    Setup(name="solo × 2", workers=2, options=("-P", "solo"), chains=4_000),
    Setup(name="solo × 2 tuned", workers=2, options=("-P", "solo", *TUNED), chains=4_000),
)


def trial(
    setup: Setup, *, redis_url: str, place: Path, chains: int, singles: int
) -> dict[str, Any]:
    """One trial with fresh workers: a pre-staged backlog drained, then one chain at a time."""
    url = redis_url.rpartition("/")[0] + "/1"  # a database apart from the product's
    app.conf.broker_url = url
    client = redis.Redis.from_url(url)
    client.flushdb()
    with together(_workers(setup, url), place) as children:
        _drain(client, children, place, WARM_CHAINS)
        used = meter(children)
        wall_s = _drain(client, children, place, chains)
        cpu_s = used()
        ran = _tasks_run()
        wanted = STEPS * (WARM_CHAINS + chains)
        if ran != wanted:
            raise RuntimeError(f"bare Celery ran {ran} tasks instead of {wanted}")
        latencies_ms = [_alone_ms(client, number) for number in range(20 + singles)][20:]
    app.close()
    client.flushdb()
    return {
        "setup": setup.name,
        "chains": chains,
        "wall_s": wall_s,
        "per_s": chains / wall_s,
        "alone_ms": latencies_ms,
        "alone_p50_ms": median(latencies_ms),
        "cpu_s": _by_kind(cpu_s),
    }


def _workers(setup: Setup, url: str) -> list[Process]:
    found = []
    for number in range(1, setup.workers + 1):
        name = f"bare{number}"
        found.append(
            Process(
                name=name,
                argv=(
                    *(sys.executable, "-m", "celery", "-A", "bench.celery_chain", "worker"),
                    *("-Q", QUEUE, "-n", f"{name}@%h", "-l", "WARNING", *setup.options),
                ),
                env=os.environ | {"BENCH_BROKER_URL": url},
                ready=partial(celery_ready, url, f"{name}@{socket.gethostname()}"),
            )
        )
    return found


def _drain(client: redis.Redis, children: Children, place: Path, chains: int) -> float:
    """Seconds from the release of a staged backlog to its last task."""
    first = step.si().set(queue=STAGED)
    for _ in range(chains):
        chain(first, *(step.si() for _ in range(STEPS - 1))).apply_async()
    started = time.perf_counter()
    client.rename(STAGED, QUEUE)
    ended, empty = started, 0
    while empty < EMPTY_POLLS:
        time.sleep(POLL_S)
        with client.pipeline() as pipe:
            pipe.llen(QUEUE)
            pipe.hlen("unacked")
            busy = any(pipe.execute())
        if busy:
            empty = 0
            require_alive(children, place)
            if time.perf_counter() - started > STALL_S:
                raise RuntimeError(f"bare Celery did not drain {chains} chains in {STALL_S:g} s")
        else:
            ended = time.perf_counter() if not empty else ended
            empty += 1
    return ended - started


def _tasks_run() -> int:
    """What all workers say they have run, so that an empty queue is not taken for done work."""
    stats: Mapping[str, Any] = app.control.inspect(timeout=2.0).stats() or {}
    return sum(sum(worker["total"].values()) for worker in stats.values())


def _alone_ms(client: redis.Redis, number: int) -> float:
    started = time.perf_counter()
    chain(*(step.si() for _ in range(STEPS - 1)), end.si(number)).apply_async()
    answer = client.blpop([ENDS], timeout=10)
    elapsed_ms = (time.perf_counter() - started) * 1000
    if answer is None or int(answer[1]) != number:
        raise RuntimeError("a bare chain sent alone did not end within 10 s")
    return elapsed_ms


def _by_kind(cpu_s: Mapping[str, float]) -> dict[str, float]:
    """The workers as one, Valkey beside them; PostgreSQL has no part in this."""
    workers = sum(value for name, value in cpu_s.items() if name.startswith("bare"))
    return {"workers": workers, "valkey": cpu_s["valkey"]}
