"""Section `http`: agents behind real HTTP, beside bare Celery that makes the same call."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from statistics import median

from bench import bare, stats
from bench.backlog import drained, total_us
from bench.processes import together
from bench.section import Bench, Figures, Grid, Section, Trial, by_name
from bench.stand import AGENTS, SLOTS, running
from ledger.model import Agent
from workers.probes import http_ready
from workers.process import Process

POOLS = (bare.PREFORK, bare.TUNED)
KINDS = ("http task", "http chain")


@contextmanager
def _agent(bench: Bench) -> Iterator[str]:
    """The URL of one agent process that answers at once."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/"
    process = Process(
        name="agent",
        argv=(sys.executable, "-m", "bench.agent", str(port)),
        env=os.environ,
        ready=partial(http_ready, url),
    )
    with together([process], bench.place):
        yield url


def measure(bench: Bench, number: int) -> Trial:
    """Bare tasks and chains with one call each, then our tasks, all to the same agent."""
    found: Trial = {"bare_per_s": {}}
    with _agent(bench) as url:
        for setup in POOLS:
            with bare.running(bench, setup) as pool:
                for kind in KINDS:
                    count = bench.size(setup.chains // 2, 50)
                    wall_s, _ = pool.drain(kind, count, url)
                    found["bare_per_s"][f"{kind}, {setup.name}"] = count / wall_s
        agents = [
            Agent(id=f"H{index}", kind="json", url=url, y_max=100_000, k=10**6, slots=SLOTS)
            for index in range(AGENTS)
        ]
        with running(bench, f"http_{number}", agents=agents) as stand:
            stand.warm()
            found["ours"] = drained(stand, bench.size(10_000, 500))
            found["alone_ms"] = stand.alone_ms(bench.size(200, 20))
            stand.require_sound()
    bench.say(f"Clearlane over HTTP: {found['ours']['per_s']:,.0f} tasks/s")
    return found


def summarise(trials: Sequence[Trial]) -> Figures:
    """Medians; the best pool for the chain and for the lone task."""
    rates = {name: median(values) for name, values in by_name(trials, "bare_per_s").items()}
    return {
        "bare_per_s": rates,
        "chains_per_s": max(rate for name, rate in rates.items() if name.startswith(KINDS[1])),
        "tasks_per_s": max(rate for name, rate in rates.items() if name.startswith(KINDS[0])),
        "per_s": median(trial["ours"]["per_s"] for trial in trials),
        "trials": [trial["ours"]["per_s"] for trial in trials],
        "cpu_us": median(total_us(trial["ours"]) for trial in trials),
        "alone": stats.latency([trial["alone_ms"] for trial in trials]),
    }


def grids(figures: Figures) -> list[Grid]:
    """Ours above the bare ones."""
    alone = figures["alone"]
    rows = [
        (
            "Clearlane, one task",
            f"{figures['per_s']:,.0f}",
            "1.00",
            f"{figures['cpu_us']:,.0f}",
            f"{alone['p50_ms']:.1f}",
        ),
        *(
            (f"bare {name}", f"{rate:,.0f}", f"{figures['per_s'] / rate:.2f}", "", "")
            for name, rate in figures["bare_per_s"].items()
        ),
    ]
    head = ("", "per second", "Clearlane ×", "CPU µs", "alone p50 ms")
    return [Grid(title="One HTTP call in each task", head=head, rows=rows)]


SECTION = Section(
    name="http",
    about="agents behind real HTTP, beside bare Celery that makes the same call",
    measure=measure,
    summarise=summarise,
    grids=grids,
    notes=(
        "HTTP: one agent process on the same machine that answers everything at once and is not "
        "counted in the CPU. Bare: the second of four tasks, or the only one, posts the same JSON "
        "with urllib3 over kept connections and reads the answer.",
    ),
    trials=2,
)
