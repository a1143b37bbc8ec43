"""Section `cores`: the same stack, servers included, on one core and on two."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from statistics import median

import psutil

from bench.backlog import drained, total_us
from bench.section import Bench, Figures, Grid, LeftOutError, Section, Trial
from bench.stand import running

TASKS = {"one": 6_000, "two": 12_000}


@contextmanager
def _on(cores: set[int]) -> Iterator[None]:
    """This process, the servers and whatever is started meanwhile, on these cores alone."""
    before = os.sched_getaffinity(0)
    _pin(cores)
    try:
        yield
    finally:
        _pin(before)


def _pin(cores: set[int]) -> None:
    me = psutil.Process()
    for process in (me, *me.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            process.cpu_affinity(list(cores))


def measure(bench: Bench, number: int) -> Trial:
    """The same backlog on one core, then on two."""
    if not hasattr(os, "sched_setaffinity"):
        raise LeftOutError("this system cannot pin processes to cores")
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < 2:
        raise LeftOutError("this machine has one core")
    found: Trial = {}
    for name, cores in (("one", usable[:1]), ("two", usable[:2])):
        with _on(set(cores)), running(bench, f"cores_{name}_{number}") as stand:
            stand.warm()
            found[name] = drained(stand, bench.size(TASKS[name], 500))
            stand.require_sound()
        bench.say(f"cores: {name}: {found[name]['per_s']:,.0f} tasks/s")
    return found


def summarise(trials: Sequence[Trial]) -> Figures:
    """Medians."""
    return {
        name: {
            "per_s": median(trial[name]["per_s"] for trial in trials),
            "cpu_us": median(total_us(trial[name]) for trial in trials),
            "chunk": median(trial[name]["tasks_per_message"]["commit"] for trial in trials),
        }
        for name in TASKS
    }


def grids(figures: Figures) -> list[Grid]:
    """One row per number of cores."""
    rows = [
        (
            name,
            f"{row['per_s']:,.0f}",
            f"{row['cpu_us']:,.0f}",
            f"{row['per_s'] * row['cpu_us'] / 1e6:.2f}",
            f"{row['chunk']:,.0f}",
        )
        for name, row in figures.items()
    ]
    head = ("cores", "settled/s", "CPU µs/task", "cores busy", "tasks/commit message")
    return [Grid(title="The whole stack on one core and on two", head=head, rows=rows)]


SECTION = Section(
    name="cores",
    about="the whole stack, servers included, on one core and on two",
    measure=measure,
    summarise=summarise,
    grids=grids,
    notes=(
        "Cores: every process, PostgreSQL and Valkey included, bound to one core or to two; the "
        "processes are the same. Cores busy is settled/s times CPU per task: where it falls short "
        "of the cores given, a step waits for another.",
    ),
)
