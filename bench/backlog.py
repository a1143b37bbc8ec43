"""Section `backlog`: Clearlane drains a backlog with in-process agents, then takes one alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from bench import cost, stats
from bench.section import Bench, Figures, Grid, Section, Trial
from bench.stand import Stand, running

STEPS = {
    "reserve": "saga.reserve",
    "execute": "saga.execute",
    "validate": "saga.validate",
    "commit": "saga.commit",
}
Used = Mapping[str, Mapping[str, float]]


def drained(stand: Stand, tasks: int, most_s: float | None = None) -> Trial:
    """One backlog on a warm stand: rate, CPU by process and by step, tasks per message."""
    redis_url = stand.bench.redis_url
    before, sent = stand.settled(), cost.messages(redis_url)
    stand.stage(tasks)
    used = cost.start(stand.children, stand.url, redis_url)
    wall_s = stand.drain(most_s)
    settled, spent = stand.settled() - before, used()
    after = cost.messages(redis_url)
    return {
        "tasks": settled,
        "wall_s": wall_s,
        "per_s": settled / wall_s,
        "cpu_us": per_task(spent, settled),
        "steps_us": per_task(cost.by_step(spent), settled),
        "tasks_per_message": {
            step: settled / max(1, after.get(name, 0) - sent.get(name, 0))
            for step, name in STEPS.items()
        },
    }


def per_task(used: Used, tasks: int) -> dict[str, dict[str, float]]:
    """Seconds of a run as microseconds of one of its tasks."""
    return {
        kind: {name: cpu_s / max(1, tasks) * 1e6 for name, cpu_s in row.items()}
        for kind, row in used.items()
    }


def total_us(trial: Trial) -> float:
    """CPU of one task, all processes and servers together."""
    return float(sum(trial["cpu_us"]["process"].values()))


def measure(bench: Bench, number: int) -> Trial:
    """One trial on an empty database and an empty Redis, with fresh processes."""
    with running(bench, f"backlog_{number}") as stand:
        stand.warm()
        found = drained(stand, bench.size(20_000, 1_000))
        found["alone_ms"] = stand.alone_ms(bench.size(300, 20))
        stand.require_sound()
    p50_ms = stats.quantile(found["alone_ms"], 0.50)
    bench.say(
        f"Clearlane: {found['per_s']:,.0f} tasks/s, {total_us(found):,.0f} µs CPU each, "
        f"alone p50 {p50_ms:.1f} ms"
    )
    return found


def summarise(trials: Sequence[Trial]) -> Figures:
    """Medians of the rate, of each part of the CPU, and of the latency alone."""
    return {
        "per_s": median(trial["per_s"] for trial in trials),
        "trials": [trial["per_s"] for trial in trials],
        "alone": stats.latency([trial["alone_ms"] for trial in trials]),
        "cpu_us": median(total_us(trial) for trial in trials),
        "tasks_per_message": stats.medians([trial["tasks_per_message"] for trial in trials]),
        **_parts(trials),
    }


def _parts(trials: Sequence[Trial]) -> dict[str, Any]:
    return {
        "processes_us": stats.medians([trial["cpu_us"]["process"] for trial in trials]),
        "valkey_us": stats.medians([trial["cpu_us"]["valkey"] for trial in trials]),
        "steps_us": {
            step: stats.medians([trial["steps_us"].get(step, {}) for trial in trials])
            for step in trials[0]["steps_us"]
        },
    }


def grids(figures: Figures) -> list[Grid]:
    """The rate, and where the CPU goes."""
    alone = figures["alone"]
    rate = (
        f"{figures['per_s']:,.0f}",
        " ".join(f"{value:,.0f}" for value in figures["trials"]),
        f"{figures['cpu_us']:,.0f}",
        f"{alone['p50_ms']:.1f}",
        f"{alone['p99_ms']:.1f}",
    )
    head = ("settled/s", "trials", "CPU µs/task", "alone p50 ms", "alone p99 ms")
    return [
        Grid(title="Clearlane: a backlog drained, and one alone", head=head, rows=[rate]),
        Grid(
            title="CPU of one task by process, µs",
            head=("process", "µs"),
            rows=[(name, f"{us:,.0f}") for name, us in figures["processes_us"].items()],
        ),
        Grid(
            title="CPU of one task by step, µs",
            head=("step", "own processes", "their PostgreSQL backends", "both", "tasks/message"),
            rows=_step_rows(figures),
        ),
    ]


def _step_rows(figures: Figures) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for step, row in figures["steps_us"].items():
        if step == cost.REST:
            continue
        own, backend = row.get("process", 0.0), row.get("backend", 0.0)
        chunk = figures["tasks_per_message"].get(step)
        size = "" if chunk is None else f"{chunk:,.0f}"
        rows.append((step, f"{own:,.0f}", f"{backend:,.0f}", f"{own + backend:,.0f}", size))
    rest = figures["steps_us"].get(cost.REST, {}).get("backend", 0.0)
    rows.append(("PostgreSQL itself, and who watches", "", f"{rest:,.0f}", f"{rest:,.0f}", ""))
    for kind, us in figures["valkey_us"].items():
        rows.append((f"Valkey, {kind}", "", "", f"{us:,.0f}", ""))
    return rows


SECTION = Section(
    name="backlog",
    about="Clearlane: a backlog with in-process agents, CPU by process and step, one alone",
    measure=measure,
    summarise=summarise,
    grids=grids,
    notes=(
        "Clearlane: routing, validation and ledger on; in-process echo agents (no HTTP), validator "
        "`none`; one solo process per queue, dispatcher and beat; task events on; Flower and "
        "gateway not running.",
        "Backlog: closed before the clock starts, in Valkey for the peers (queue renamed), in "
        "PostgreSQL for Clearlane (dispatcher held as a process until the clock starts); workers "
        "started and warmed up before. Clearlane's clock stops when no task is open.",
        "CPU by step: a backend counts for the process at the other end of its connection; "
        "Valkey's scripts by its own command statistics, the rest of its time is messages, events "
        "and the network.",
        "All sides: the same embedded Valkey (append-only file, fsync every second) and the same "
        "PostgreSQL (fsync on). Only ratios carry over to another machine.",
    ),
)
