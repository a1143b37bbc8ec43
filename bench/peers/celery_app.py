"""Bare Celery: tasks that do nothing, alone and as chains of four, results ignored.

`celery -A bench.peers.celery_app worker` runs them, `python -m bench.peers.celery_app` sends them.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import redis
import urllib3
from celery import Celery, chain
from kombu.transport import redis as transport

from bench.peers.wire import serve

STEPS = 4
QUEUE = "bench"
STAGED = "bench.staged"  # nobody consumes it; it is renamed to QUEUE when the clock starts
ENDS = "bench.ends"
POLL_S = 0.02
EMPTY_POLLS = 5  # a task that runs is in no list for a moment: emptiness has to last
STALL_S = 180.0

app = Celery("bench", broker=os.environ["BENCH_BROKER_URL"])
app.conf.update(
    task_default_queue=QUEUE,
    task_ignore_result=True,
    broker_connection_retry_on_startup=True,
)
_clients: list[redis.Redis] = []
_pools: list[urllib3.PoolManager] = []


def _tune() -> None:
    """orjson for the body and for the envelope that the Redis transport puts around it."""
    import orjson
    from kombu import serialization

    def dumps(value: Any) -> str:
        return str(orjson.dumps(value), "utf-8")

    serialization.register("json", dumps, orjson.loads, "application/json", "utf-8")
    # Not meant to be replaced; there is no other way in.
    for name, function in (("dumps", dumps), ("loads", orjson.loads)):
        setattr(transport, name, function)


if os.environ.get("BENCH_ORJSON"):
    _tune()


def _client() -> redis.Redis:
    if not _clients:
        _clients.append(redis.Redis.from_url(app.conf.broker_url))
    return _clients[0]


@app.task(name="bench.step")
def step() -> None:
    """Do nothing."""


@app.task(name="bench.end")
def end(number: int) -> None:
    """The last of a chain that somebody waits for."""
    _client().lpush(ENDS, number)


@app.task(name="bench.call")
def call(url: str) -> None:
    """Ask an agent the way Clearlane asks, over connections that are kept."""
    if not _pools:
        _pools.append(urllib3.PoolManager(maxsize=4))
    body = json.dumps({"task": "1", "family": "echo", "payload": {"n": 1}}).encode()
    headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
    answer = _pools[0].request("POST", url, body=body, headers=headers, timeout=30.0, retries=False)
    if answer.status != 200 or "output" not in json.loads(answer.data):
        raise RuntimeError(f"the agent answered {answer.status}")


def _steps(kind: str, url: str) -> list[Any]:
    """What one unit of the backlog consists of."""
    nothing = step.si()
    match kind:
        case "noop":
            return [nothing]
        case "chain":
            return [nothing] * STEPS
        case "http task":
            return [call.si(url)]
        case "http chain":
            return [nothing, call.si(url), nothing, nothing]
        case _:
            raise ValueError(f"no such backlog: {kind}")


def stage(kind: str, count: int, url: str = "") -> Mapping[str, Any]:
    """Put a backlog where nobody takes it yet; says how many tasks it holds."""
    first, *others = _steps(kind, url)
    first = first.clone().set(queue=STAGED)
    for _ in range(count):
        if others:
            chain(first, *others).apply_async()
        else:
            first.apply_async()
    return {"tasks": count * (1 + len(others))}


def drain() -> Mapping[str, Any]:
    """Seconds from the release of the staged backlog to its last task."""
    client = _client()
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
            if time.perf_counter() - started > STALL_S:
                raise RuntimeError(f"bare Celery did not drain its backlog in {STALL_S:g} s")
        else:
            ended = time.perf_counter() if not empty else ended
            empty += 1
    return {"wall_s": ended - started}


def ran() -> Mapping[str, Any]:
    """What all workers say they have run, so that an empty queue is not taken for done work."""
    stats: Mapping[str, Any] = app.control.inspect(timeout=2.0).stats() or {}
    return {"tasks": sum(sum(worker["total"].values()) for worker in stats.values())}


def alone(count: int) -> Mapping[str, Any]:
    """Milliseconds from sending a chain to its end, one at a time."""
    return {"ms": [_alone_ms(number) for number in range(20 + count)][20:]}


def _alone_ms(number: int) -> float:
    started = time.perf_counter()
    chain(*(step.si() for _ in range(STEPS - 1)), end.si(number)).apply_async()
    answer = _client().blpop([ENDS], timeout=10)
    elapsed_ms = (time.perf_counter() - started) * 1000
    if answer is None or int(answer[1]) != number:
        raise RuntimeError("a bare chain sent alone did not end within 10 s")
    return elapsed_ms


VERBS: Mapping[str, Callable[..., Any]] = {
    "stage": stage,
    "drain": drain,
    "ran": ran,
    "alone": alone,
}

if __name__ == "__main__":
    serve(VERBS)
