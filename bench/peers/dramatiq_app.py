"""Dramatiq: pipelines of four actors that do nothing.

`dramatiq bench.peers.dramatiq_app` runs them, `python -m bench.peers.dramatiq_app` sends them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from bench.peers.wire import serve

URL = os.environ["BENCH_BROKER_URL"]
STEPS = 4
QUEUE = "bench"
LIVE = "dramatiq"  # the namespace that the workers read
STAGED = "staged"  # nobody reads it; it is renamed to LIVE when the clock starts
ENDS = "bench.ends"
POLL_S = 0.02
EMPTY_POLLS = 5
STALL_S = 180.0

sending = RedisBroker(url=URL, namespace=STAGED)
live = RedisBroker(url=URL, namespace=LIVE)
dramatiq.set_broker(live)


@dramatiq.actor(queue_name=QUEUE)
def step() -> None:
    """Do nothing."""


@dramatiq.actor(queue_name=QUEUE)
def end(number: int) -> None:
    """The last of a pipeline that somebody waits for."""
    live.client.lpush(ENDS, number)


def _nothing() -> Any:
    # Nothing to hand on: the next actor takes no argument.
    return step.message_with_options(pipe_ignore=True)


def stage(kind: str, count: int) -> Mapping[str, Any]:
    """Put a backlog where nobody takes it yet; says how many messages it holds."""
    steps = {"noop": 1, "pipeline": STEPS}[kind]
    sending.declare_queue(QUEUE)
    sending.actors.update(live.actors)
    for _ in range(count):
        dramatiq.pipeline([_nothing() for _ in range(steps)], broker=sending).run()
    return {"tasks": count * steps}


def drain() -> Mapping[str, Any]:
    """Seconds from the release of the staged backlog to its last message."""
    client = live.client
    started = time.perf_counter()
    with client.pipeline(transaction=True) as pipe:
        pipe.rename(f"{STAGED}:{QUEUE}.msgs", f"{LIVE}:{QUEUE}.msgs")
        pipe.rename(f"{STAGED}:{QUEUE}", f"{LIVE}:{QUEUE}")
        pipe.execute()
    ended, empty = started, 0
    while empty < EMPTY_POLLS:
        time.sleep(POLL_S)
        # A message leaves the hash when it is acknowledged, after its successor was put in.
        if client.hlen(f"{LIVE}:{QUEUE}.msgs"):
            empty = 0
            if time.perf_counter() - started > STALL_S:
                raise RuntimeError(f"Dramatiq did not drain its backlog in {STALL_S:g} s")
        else:
            ended = time.perf_counter() if not empty else ended
            empty += 1
    return {"wall_s": ended - started}


def alone(count: int) -> Mapping[str, Any]:
    """Milliseconds from sending a pipeline to its end, one at a time."""
    return {"ms": [_alone_ms(number) for number in range(20 + count)][20:]}


def _alone_ms(number: int) -> float:
    started = time.perf_counter()
    last = end.message_with_options(args=(number,), pipe_ignore=True)
    dramatiq.pipeline([*(_nothing() for _ in range(STEPS - 1)), last], broker=live).run()
    answer = live.client.blpop([ENDS], timeout=10)
    elapsed_ms = (time.perf_counter() - started) * 1000
    if answer is None or int(answer[1]) != number:
        raise RuntimeError("a pipeline sent alone did not end within 10 s")
    return elapsed_ms


if __name__ == "__main__":
    serve({"stage": stage, "drain": drain, "alone": alone})
