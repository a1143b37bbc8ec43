"""Section `dramatiq`: messages and pipelines of four, two processes of eight threads."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import median

import redis

from bench import stats
from bench.bare import apart
from bench.processes import Children, meter, require_alive, together
from bench.remote import Remote, remote
from bench.section import Bench, Figures, Grid, Section, Trial
from workers.process import Process

MODULE = "bench.peers.dramatiq_app"
PROCESSES, THREADS = 2, 8
WARM = 200


@contextmanager
def _running(bench: Bench) -> Iterator[tuple[Remote, Children]]:
    url = apart(bench.redis_url)
    python = bench.require_peers()
    env = {"BENCH_BROKER_URL": url}
    argv = (
        *(str(python), "-m", "dramatiq", MODULE),
        *("--processes", str(PROCESSES), "--threads", str(THREADS)),
    )
    with redis.Redis.from_url(url) as client:
        client.flushdb()

        async def ready() -> str | None:
            # A worker that lives has left its heartbeat.
            await asyncio.sleep(0.05)
            beating = client.zcard("dramatiq:__heartbeats__")
            return None if beating >= PROCESSES else f"{beating} of {PROCESSES} beat"

        workers = Process(name="dramatiq", argv=argv, env={**os.environ, **env}, ready=ready)
        with (
            remote("dramatiq-sender", MODULE, python=python, env=env, place=bench.place) as sender,
            together([workers], bench.place) as children,
        ):
            yield sender, children
        client.flushdb()


def measure(bench: Bench, _number: int) -> Trial:
    """A backlog of messages, one of pipelines, then pipelines one at a time."""
    messages, pipelines = bench.size(12_000, 400), bench.size(4_000, 100)
    found: Trial = {}
    with _running(bench) as (sender, children):
        sender.ask("stage", kind="pipeline", count=WARM)
        sender.ask("drain")
        for kind, count in (("noop", messages), ("pipeline", pipelines)):
            sender.ask("stage", kind=kind, count=count)
            used = meter(children)
            found[f"{kind}_per_s"] = count / float(sender.ask("drain")["wall_s"])
            found[f"{kind}_cpu_us"] = sum(used().values()) / count * 1e6
            require_alive(children, bench.place)
        found["alone_ms"] = sender.ask("alone", count=bench.size(200, 20))["ms"]
    bench.say(f"Dramatiq: {found['pipeline_per_s']:,.0f} pipelines/s")
    return found


def summarise(trials: Sequence[Trial]) -> Figures:
    """Medians."""
    return {
        **{
            name: median(trial[name] for trial in trials)
            for name in ("noop_per_s", "pipeline_per_s", "noop_cpu_us", "pipeline_cpu_us")
        },
        "trials": [trial["pipeline_per_s"] for trial in trials],
        "alone": stats.latency([trial["alone_ms"] for trial in trials]),
    }


def grids(figures: Figures) -> list[Grid]:
    """Messages and pipelines."""
    alone = figures["alone"]
    rows = [
        (
            "no-op messages",
            f"{figures['noop_per_s']:,.0f}",
            f"{figures['noop_cpu_us']:,.0f}",
            "",
            "",
        ),
        (
            "pipelines of four",
            f"{figures['pipeline_per_s']:,.0f}",
            f"{figures['pipeline_cpu_us']:,.0f}",
            f"{alone['p50_ms']:.1f}",
            f"{alone['p99_ms']:.1f}",
        ),
    ]
    head = ("", "per second", "CPU µs", "alone p50 ms", "alone p99 ms")
    return [Grid(title="Dramatiq: two processes of eight threads", head=head, rows=rows)]


SECTION = Section(
    name="dramatiq",
    about="Dramatiq: messages and pipelines of four, two processes of eight threads",
    measure=measure,
    summarise=summarise,
    grids=grids,
    notes=(
        "Dramatiq: actors that do nothing, default middleware, a backlog renamed into its queue "
        "when the clock starts, ended when every message is acknowledged.",
    ),
)
