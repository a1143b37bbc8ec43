"""Section `bare`: Celery itself, with tasks that do nothing."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import redis

from bench import stats
from bench.processes import Children, meter, require_alive, together
from bench.remote import Remote, remote
from bench.section import Bench, Figures, Grid, Section, Trial
from workers.probes import celery_ready
from workers.process import Process

MODULE = "bench.peers.celery_app"
WARM = 50


@dataclass(frozen=True, kw_only=True, slots=True)
class Setup:
    """One way to run the bare workers. chains: the backlog, about five seconds of it."""

    name: str
    workers: int
    options: tuple[str, ...]
    chains: int
    orjson: bool = False


LEAN = ("--without-gossip", "--without-mingle", "--without-heartbeat", "--prefetch-multiplier=16")
PREFORK = Setup(name="prefork 2", workers=1, options=("-P", "prefork", "-c", "2"), chains=1_600)
SOLO = Setup(name="solo × 2", workers=2, options=("-P", "solo"), chains=2_400)
TUNED = Setup(
    name="solo × 2 tuned", workers=2, options=("-P", "solo", *LEAN), chains=2_400, orjson=True
)
SETUPS = (PREFORK, SOLO, TUNED)


@dataclass(frozen=True, kw_only=True, slots=True)
class Pool:
    """Running workers and the process that sends to them."""

    bench: Bench
    children: Children
    sender: Remote

    def drain(self, kind: str, count: int, url: str = "") -> tuple[float, dict[str, float]]:
        """A staged backlog: (seconds to its end, CPU seconds of the workers and of Valkey)."""
        before = self.sender.ask("ran")["tasks"]
        tasks = self.sender.ask("stage", kind=kind, count=count, url=url)["tasks"]
        used = meter(self.children)
        wall_s = float(self.sender.ask("drain")["wall_s"])
        cpu_s = used()
        require_alive(self.children, self.bench.place)
        ran = self.sender.ask("ran")["tasks"] - before
        if ran != tasks:
            raise RuntimeError(f"bare Celery ran {ran} tasks instead of {tasks}")
        workers_s = sum(value for name, value in cpu_s.items() if name.startswith("bare"))
        return wall_s, {"workers": workers_s, "valkey": cpu_s["valkey"]}


@contextmanager
def running(bench: Bench, setup: Setup) -> Iterator[Pool]:
    """Fresh workers of this kind, warmed up."""
    url = apart(bench.redis_url)
    python = bench.require_peers()
    env = {"BENCH_BROKER_URL": url} | ({"BENCH_ORJSON": "1"} if setup.orjson else {})
    with redis.Redis.from_url(url) as client:
        client.flushdb()
        with (
            remote("bare-sender", MODULE, python=python, env=env, place=bench.place) as sender,
            together(_workers(setup, str(python), env), bench.place) as children,
        ):
            pool = Pool(bench=bench, children=children, sender=sender)
            pool.drain("chain", WARM)
            yield pool
        client.flushdb()


def apart(redis_url: str) -> str:
    """A database apart from the product's."""
    return redis_url.rpartition("/")[0] + "/1"


def _workers(setup: Setup, python: str, env: Mapping[str, str]) -> list[Process]:
    found = []
    for number in range(1, setup.workers + 1):
        name = f"bare{number}"
        ready = partial(celery_ready, env["BENCH_BROKER_URL"], f"{name}@{socket.gethostname()}")
        argv = (
            *(python, "-m", "celery", "-A", MODULE, "worker", "-Q", "bench"),
            *("-n", f"{name}@%h", "-l", "WARNING", *setup.options),
        )
        found.append(Process(name=name, argv=argv, env={**os.environ, **env}, ready=ready))
    return found


def measure(bench: Bench, _number: int) -> Trial:
    """Each setup: no-op tasks, chains of four, chains one at a time."""
    found: Trial = {"setups": {}}
    for setup in SETUPS:
        with running(bench, setup) as pool:
            tasks = bench.size(setup.chains * 4, 200)
            chains = bench.size(setup.chains, 100)
            tasks_s, _cpu_s = pool.drain("noop", tasks)
            chains_s, cpu_s = pool.drain("chain", chains)
            alone = pool.sender.ask("alone", count=bench.size(200, 20))["ms"]
        found["setups"][setup.name] = {
            "tasks_per_s": tasks / tasks_s,
            "chains_per_s": chains / chains_s,
            "cpu_us": {name: value / chains * 1e6 for name, value in cpu_s.items()},
            "alone_ms": alone,
        }
        bench.say(
            f"{setup.name}: {tasks / tasks_s:,.0f} tasks/s, {chains / chains_s:,.0f} chains/s"
        )
    return found


def summarise(trials: Sequence[Trial]) -> Figures:
    """Medians per setup, and the best of each figure over the setups."""
    setups: dict[str, Any] = {}
    for name in trials[0]["setups"]:
        mine = [trial["setups"][name] for trial in trials]
        setups[name] = {
            **stats.medians([{k: t[k] for k in ("tasks_per_s", "chains_per_s")} for t in mine]),
            "chains_per_s_trials": [trial["chains_per_s"] for trial in mine],
            "cpu_us": stats.medians([trial["cpu_us"] for trial in mine]),
            "alone": stats.latency([trial["alone_ms"] for trial in mine]),
        }
    return {
        "setups": setups,
        "tasks_per_s": max(setup["tasks_per_s"] for setup in setups.values()),
        "chains_per_s": max(setup["chains_per_s"] for setup in setups.values()),
        "p50_ms": min(setup["alone"]["p50_ms"] for setup in setups.values()),
        "p99_ms": min(setup["alone"]["p99_ms"] for setup in setups.values()),
    }


def grids(figures: Figures) -> list[Grid]:
    """One row per setup."""
    rows = [
        (
            name,
            f"{setup['tasks_per_s']:,.0f}",
            f"{setup['chains_per_s']:,.0f}",
            " ".join(f"{rate:,.0f}" for rate in setup["chains_per_s_trials"]),
            f"{sum(setup['cpu_us'].values()):,.0f}",
            f"{setup['alone']['p50_ms']:.1f}",
            f"{setup['alone']['p99_ms']:.1f}",
        )
        for name, setup in figures["setups"].items()
    ]
    head = ("", "tasks/s", "chains/s", "trials", "CPU µs/chain", "alone p50 ms", "alone p99 ms")
    return [
        Grid(title="Bare Celery: no-op tasks, and chains of four of them", head=head, rows=rows)
    ]


SECTION = Section(
    name="bare",
    about="bare Celery: no-op tasks and chains of four, prefork, solo and tuned",
    measure=measure,
    summarise=summarise,
    grids=grids,
    notes=(
        "Bare Celery: `celery.chain` of four tasks that do nothing, results ignored, one queue, "
        "no task events. One chain does what one task of Clearlane needs of Celery (reserve, "
        "execute, validate, commit), in chunks of one and without the work.",
        "Tuned: no gossip, no mingle, no heartbeat, prefetch 16, orjson for body and envelope.",
        "Alone: closed loop, one in flight. Bare: from `apply_async` to a BLPOP answered by the "
        "last task's LPUSH. Clearlane: from `submit` to its notification that the task is settled. "
        "A ratio takes the best pool for each figure by itself.",
    ),
)
