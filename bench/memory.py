"""Section `memory`: resident memory of every process over a million tasks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import psutil

from bench.processes import servers
from bench.section import Bench, Figures, Grid, Section, Trial
from bench.stand import SUBMIT_MAX, Stand, running, submit

OPEN_MAX = 8_000  # tasks that are open at a time
SAMPLES = 10
STALL_S = 60.0
MIB = 1 << 20


def _resident(stand: Stand) -> dict[str, int]:
    """Bytes by process. PostgreSQL without what its processes share: its buffers fill by design."""
    found = {
        name: psutil.Process(child.pid).memory_info().rss for name, child in stand.children.items()
    }
    found["valkey"] = psutil.Process(servers()["valkey"]).memory_info().rss
    postmaster = psutil.Process(servers()["postgres"])
    found["postgres"] = sum(
        process.memory_full_info().uss
        for process in (postmaster, *postmaster.children(recursive=True))
    )
    return found


def _work_off(stand: Stand, until: int, submitted: int) -> int:
    """Submit and wait until `until` tasks are settled; how many were submitted by then."""
    last, moved_at = stand.settled(), time.perf_counter()
    while last < until:
        if submitted < until and submitted - last < OPEN_MAX:
            count = min(SUBMIT_MAX, until - submitted)
            submit(stand.engine, count)
            submitted += count
        else:
            time.sleep(0.02)
        now, stand_still_s = stand.settled(), time.perf_counter() - moved_at
        if now > last:
            last, moved_at = now, time.perf_counter()
        elif stand_still_s > STALL_S:
            stand.require_alive()
            raise RuntimeError(f"nothing was settled in {STALL_S:g} s")
    return submitted


def measure(bench: Bench, number: int) -> Trial:
    """A sample after each tenth; the first is the warm-up."""
    total = bench.size(1_000_000, 5_000)
    samples: list[dict[str, Any]] = []
    submitted = 0
    with running(bench, f"memory_{number}") as stand:
        started = time.perf_counter()
        for part in range(1, SAMPLES + 1):
            submitted = _work_off(stand, total * part // SAMPLES, submitted)
            samples.append({"tasks": stand.settled(), "resident": _resident(stand)})
            rate = submitted / (time.perf_counter() - started)
            bench.say(f"{submitted:,} tasks, {rate:,.0f}/s")
        stand.require_sound()
    return {"samples": samples, "per_s": rate}


def summarise(trials: Sequence[Trial]) -> Figures:
    """First and last sample, and the growth of the process that grew most."""
    first, last = trials[0]["samples"][0], trials[0]["samples"][-1]
    growth = {name: last["resident"][name] / size for name, size in first["resident"].items()}
    return {
        "tasks": [first["tasks"], last["tasks"]],
        "resident": {
            name: [size, last["resident"][name]] for name, size in first["resident"].items()
        },
        "growth_by_process": growth,
        "growth": max(ratio for name, ratio in growth.items() if name != "postgres"),
        "per_s": trials[0]["per_s"],
    }


def grids(figures: Figures) -> list[Grid]:
    """One row per process."""
    rows = [
        (
            name,
            f"{first / MIB:,.1f}",
            f"{last / MIB:,.1f}",
            f"{figures['growth_by_process'][name]:.3f}",
        )
        for name, (first, last) in figures["resident"].items()
    ]
    warm, total = figures["tasks"]
    head = ("process", f"after {warm:,} tasks", f"after {total:,}", "growth")
    return [Grid(title="Resident memory, MiB", head=head, rows=rows)]


SECTION = Section(
    name="memory",
    about="resident memory of every process over a million tasks",
    measure=measure,
    summarise=summarise,
    grids=grids,
    notes=(
        f"Memory: at most {OPEN_MAX:,} tasks open at a time, submitted from the bench. PostgreSQL "
        "counts what its processes do not share and stays out of the goal: its caches fill up to "
        "their settings.",
    ),
    trials=1,
    long=True,
)
