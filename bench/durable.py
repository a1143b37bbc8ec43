"""Section `dbos`: durable workflows of four steps, each step recorded in PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from statistics import median
from typing import Any

from bench import stats
from bench.processes import meter
from bench.remote import Remote, remote
from bench.section import Bench, Figures, Grid, Section, Trial, by_name
from bench.stand import empty_database

MODULE = "bench.peers.dbos_app"
WAYS = ("sync", "async", "queue")
WARM = 20
COUNTS = (1, 2)  # processes


@contextmanager
def _executors(bench: Bench, url: str, count: int, *, dequeue: bool) -> Iterator[list[Remote]]:
    """Launched executors. Those that dequeue start together: the queue is filled already."""
    with ExitStack() as stack:
        env, python = {"BENCH_DATABASE_URL": url}, bench.require_peers()
        peers = [
            stack.enter_context(
                remote(f"dbos{number}", MODULE, python=python, env=env, place=bench.place)
            )
            for number in range(1, count + 1)
        ]
        for number, peer in enumerate(peers, 1):
            peer.tell("launch", name=f"dbos{number}", dequeues=dequeue)
            if not dequeue:
                peer.hear()  # the first one makes the tables
        if dequeue:
            for peer in peers:
                peer.hear()
        yield peers


def _called(bench: Bench, url: str, way: str, count: int, workflows: int) -> float:
    """Workflows per second of processes that call them themselves."""
    with _executors(bench, url, count, dequeue=False) as peers:
        for size in (WARM, workflows // count):
            for peer in peers:
                peer.tell(way, count=size)
            walls_s = [float(peer.hear()["wall_s"]) for peer in peers]
    return workflows // count * count / max(walls_s)


def _queued(bench: Bench, url: str, count: int, workflows: int) -> float:
    """Workflows per second of processes that take them from a queue filled before."""
    workflows *= 2  # some are done before the last process is there
    with _executors(bench, url, 1, dequeue=False) as (filler,):
        filler.ask("enqueue", count=workflows)
    with _executors(bench, url, count, dequeue=True) as peers:
        return float(peers[0].ask("drained", count=workflows)["per_s"])


def measure(bench: Bench, number: int) -> Trial:
    """Every way with one process and with two, then workflows one at a time."""
    bench.require_peers()
    workflows = bench.size(400, 100)
    found: dict[str, float] = {}
    for way in WAYS:
        for count in COUNTS:
            name = f"{way}, {count} process{'es' if count > 1 else ''}"
            with empty_database(bench, f"dbos_{number}") as url:
                found[name] = (
                    _queued(bench, url, count, workflows)
                    if way == "queue"
                    else _called(bench, url, way, count, workflows)
                )
            bench.say(f"DBOS {name}: {found[name]:,.0f} workflows/s")
    with (
        empty_database(bench, f"dbos_{number}") as url,
        _executors(bench, url, 1, dequeue=False) as (peer,),
    ):
        singles = bench.size(200, 20)
        used = meter({})
        alone = peer.ask("alone", count=singles)["ms"]
        postgres_us = used()["postgres"] / (20 + singles) * 1e6
    return {"per_s": found, "alone_ms": alone, "alone_postgres_us": postgres_us}


def summarise(trials: Sequence[Trial]) -> Figures:
    """Medians per way, and the best of them."""
    ways = {name: median(values) for name, values in by_name(trials, "per_s").items()}
    return {
        "ways": ways,
        "trials": by_name(trials, "per_s"),
        "per_s": max(ways.values()),
        "alone": stats.latency([trial["alone_ms"] for trial in trials]),
        "alone_postgres_us": median(trial["alone_postgres_us"] for trial in trials),
    }


def grids(figures: Figures) -> list[Grid]:
    """One row per way."""
    rows: list[tuple[Any, ...]] = [
        (name, f"{rate:,.0f}", " ".join(f"{value:,.0f}" for value in figures["trials"][name]))
        for name, rate in figures["ways"].items()
    ]
    alone = figures["alone"]
    rows.append(("alone, p50 and p99 ms", f"{alone['p50_ms']:.1f}", f"{alone['p99_ms']:.1f}"))
    rows.append(("alone, CPU of PostgreSQL, µs", f"{figures['alone_postgres_us']:,.0f}", ""))
    return [
        Grid(title="DBOS: workflows of four steps", head=("", "per second", "trials"), rows=rows)
    ]


SECTION = Section(
    name="dbos",
    about="DBOS: workflows of four no-op steps on the same PostgreSQL",
    measure=measure,
    summarise=summarise,
    grids=grids,
    notes=(
        "DBOS records every step in PostgreSQL before the next one starts. Our steps in flight "
        "live in Valkey (append-only file, fsync every second) and only what was asked and what "
        "was settled is in PostgreSQL: the ratio compares two promises, not two speeds of one.",
        "DBOS sync: 16 threads a process call workflows; async: 64 at a time on one event loop; "
        "queue: enqueued before, polled every 20 ms, 100 at a time a process, the rate from "
        "when all processes are there. The ratio takes the best of all.",
    ),
)
