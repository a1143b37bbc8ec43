"""Section `lanes`: how long it takes to get a lane in which nothing is in flight."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from sqlalchemy import Engine

from bench import stats
from bench.section import Bench, Figures, Grid, Section, Trial, by_name
from bench.stand import Stand, echo_agents, running
from ledger import lanes
from ledger.lanes import Ask
from scheduler.connection import connect as connect_redis
from scheduler.reservations import Reservations

LANE = "mint"
TAKES = 200
BACKLOG = 100_000  # tasks of another lane: more than are settled meanwhile
ASK = Ask(principal="bench", reason="measured")


def _taken_ms(engine: Engine, reservations: Reservations) -> float:
    """Milliseconds until the lane is ours in PostgreSQL and Redis; given back after that."""
    started = time.perf_counter()
    taken = lanes.take(engine, LANE, ASK, datetime.now(UTC))
    reservations.fence({LANE: taken.token})
    took_ms = (time.perf_counter() - started) * 1000
    if not taken.drained:
        raise RuntimeError(f"{taken.in_flight} tasks are in flight in a lane that nobody uses")
    back = lanes.release(engine, LANE, taken.token, datetime.now(UTC))
    reservations.fence({LANE: back.token})
    return took_ms


def _busy(stand: Stand, count: int, take_ms: Callable[[], float]) -> list[float]:
    """Takes while the other lane works off a backlog."""
    stand.stage(stand.bench.size(BACKLOG, 2_000))
    stand.release()
    before = stand.settled()
    while stand.settled() == before:
        stand.require_alive()
        time.sleep(0.01)
    return [take_ms() for _ in range(count)]


def measure(bench: Bench, number: int) -> Trial:
    """Takes on a stand that has nothing to do, then beside a lane that works."""
    agents = echo_agents()
    agents.append(replace(agents[0], id="M", lane=LANE))
    count = bench.size(TAKES, 20)
    with running(bench, f"lanes_{number}", agents=agents) as stand:
        reservations = Reservations(connect_redis(bench.redis_url))

        def take_ms() -> float:
            return _taken_ms(stand.engine, reservations)

        stand.warm()
        take_ms()
        found = {"idle": [take_ms() for _ in range(count)], "busy": _busy(stand, count, take_ms)}
    for name, values in found.items():
        bench.say(f"{name}: a lane taken in {stats.quantile(values, 0.5):.1f} ms")
    return {"ms": found}


def summarise(trials: Sequence[Trial]) -> Figures:
    """Median and slowest of both, and the worse of the slowest."""
    found = {name: stats.latency(values) for name, values in by_name(trials, "ms").items()}
    return {**found, "worst_ms": max(row["p99_ms"] for row in found.values())}


def grids(figures: Figures) -> list[Grid]:
    """One row for each."""
    about = {"idle": "nothing to do", "busy": "another lane works off a backlog"}
    rows = [
        (words, f"{figures[name]['p50_ms']:.1f}", f"{figures[name]['p99_ms']:.1f}")
        for name, words in about.items()
    ]
    head = ("the stack meanwhile", "p50 ms", "p99 ms")
    return [Grid(title="Taking a lane with nothing in flight", head=head, rows=rows)]


SECTION = Section(
    name="lanes",
    about="taking a lane in which nothing is in flight",
    measure=measure,
    summarise=summarise,
    grids=grids,
    notes=(
        f"Lanes: {TAKES} takes, one after the other, each from the call to the token's arrival in "
        "Valkey; giving it back is not counted. Reserve checks the token in the script that it "
        "runs anyway: the lock costs it no round trip.",
    ),
)
