"""DBOS: durable workflows of four steps that do nothing, each recorded in PostgreSQL.

`python -m bench.peers.dbos_app`, one process each; two of them share a database.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
from dbos import DBOS, DBOSConfig

from bench.peers.wire import serve

URL = os.environ["BENCH_DATABASE_URL"]
QUEUE = "bench"
SYNC_THREADS = 16
ASYNC_MAX = 64
QUEUE_MAX = 100
POLL_S = 0.02
STALL_S = 120.0


@DBOS.step()
def step() -> None:
    """Do nothing."""


@DBOS.step()
async def step_async() -> None:
    """Do nothing."""


@DBOS.workflow()
def four() -> None:
    """Four steps."""
    step()
    step()
    step()
    step()


@DBOS.workflow()
async def four_async() -> None:
    """Four steps."""
    await step_async()
    await step_async()
    await step_async()
    await step_async()


def launch(name: str, dequeues: bool) -> None:
    """Start this process's executor; one that does not dequeue only puts into the queue."""
    config = DBOSConfig(
        name="bench",
        system_database_url=URL,
        executor_id=name,
        application_version="1",
        log_level="ERROR",
        enable_otlp=False,
    )
    DBOS(config=config)
    DBOS.listen_queues([QUEUE] if dequeues else ["none"])
    DBOS.launch()
    DBOS.register_queue(QUEUE, worker_concurrency=QUEUE_MAX, polling_interval_sec=0.02)


def run_sync(count: int) -> Mapping[str, Any]:
    """Seconds for `count` workflows called from threads."""
    started = time.perf_counter()
    with ThreadPoolExecutor(SYNC_THREADS) as pool:
        for done in [pool.submit(four) for _ in range(count)]:
            done.result()
    return {"wall_s": time.perf_counter() - started}


def run_async(count: int) -> Mapping[str, Any]:
    """Seconds for `count` workflows on one event loop."""

    async def all_of_them() -> None:
        gate = asyncio.Semaphore(ASYNC_MAX)

        async def one() -> None:
            async with gate:
                await four_async()

        await asyncio.gather(*(one() for _ in range(count)))

    started = time.perf_counter()
    asyncio.run(all_of_them())
    return {"wall_s": time.perf_counter() - started}


def enqueue(count: int) -> None:
    """Put workflows into the queue."""
    for _ in range(count):
        DBOS.enqueue_workflow(QUEUE, four)


def drained(count: int) -> Mapping[str, Any]:
    """Workflows per second of the queue, from now on, until `count` are done."""
    with psycopg.connect(URL, autocommit=True) as watch:
        begun = _await_done(watch, 1)
        at_begin = time.perf_counter()
        done = _await_done(watch, count)
    if begun == done:
        raise RuntimeError("DBOS had finished its queue before the clock started")
    return {"per_s": (done - begun) / (time.perf_counter() - at_begin)}


def _await_done(watch: psycopg.Connection[Any], count: int) -> int:
    deadline = time.perf_counter() + STALL_S
    while time.perf_counter() < deadline:
        row = watch.execute(
            "SELECT count(*) FROM dbos.workflow_status WHERE queue_name = %s AND status = %s",
            (QUEUE, "SUCCESS"),
        ).fetchone()
        if row and row[0] >= count:
            return int(row[0])
        time.sleep(POLL_S)
    raise RuntimeError(f"DBOS did not finish {count} queued workflows in {STALL_S:g} s")


def alone(count: int) -> Mapping[str, Any]:
    """Milliseconds of a workflow called directly, one at a time."""
    return {"ms": [_alone_ms() for _ in range(20 + count)][20:]}


def _alone_ms() -> float:
    started = time.perf_counter()
    four()
    return (time.perf_counter() - started) * 1000


if __name__ == "__main__":
    serve(
        {
            "launch": launch,
            "sync": run_sync,
            "async": run_async,
            "enqueue": enqueue,
            "drained": drained,
            "alone": alone,
        }
    )
