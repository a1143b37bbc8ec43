"""What a run says: medians, ratios, goals, the machine; as tables for people and as JSON."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

PACKAGES = ("celery", "kombu", "redis", "hiredis", "psycopg", "sqlalchemy", "clearlane")
OURS = "Clearlane"
BACKLOG_MIN = 5.0  # settled tasks/s over chains/s of the best bare pool
ALONE_MAX = 5.0  # p50 of one task alone over that of the quickest bare pool

NOTES = (
    "Reference: bare Celery, `celery.chain` of four tasks that do nothing, results ignored, one "
    "queue, JSON, no task events. One chain does what one task of Clearlane needs of Celery "
    "(reserve, execute, validate, commit), in chunks of one and without the work.",
    "Tuned: no gossip, no mingle, no heartbeat, prefetch 16. orjson is not a dependency and was "
    "not used.",
    "Clearlane: routing, validation and ledger on; in-process echo agents (no HTTP), validator "
    "`none`; one solo process per queue, dispatcher and beat; task events on; Flower and gateway "
    "not running.",
    "Backlog: closed before the clock starts, in Valkey for bare Celery (queue renamed), in "
    "PostgreSQL for Clearlane (dispatcher held as a process until the clock starts); workers "
    "started and warmed up before. Clearlane's clock stops when no task is open.",
    "Alone: closed loop, one in flight. Bare: from `apply_async` to a BLPOP answered by the last "
    "task's LPUSH. Clearlane: from `submit` to its notification that the task is settled.",
    "Both sides: the same embedded Valkey (append-only file, fsync every second); PostgreSQL "
    "with fsync on. Steps in flight live in Valkey, not in PostgreSQL. Only ratios carry over "
    "to another machine.",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Goal:
    """What a ratio has to be."""

    name: str
    ratio: float
    wanted: str
    passed: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """A table before anyone knows how it will be shown."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


def machine(server_versions: Mapping[str, str], argv: Sequence[str]) -> dict[str, Any]:
    """Versions, hardware, load, command and date."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(("python -m bench", *argv)),
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "load_before": round(os.getloadavg()[0], 2),
        "system": platform.platform(),
        "versions": {"python": platform.python_version()}
        | dict(server_versions)
        | {name: version(name) for name in PACKAGES},
    }


def _cpu_model() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def summarise(trials: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Medians over the trials of each setup, and the goals."""
    setups: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(trial["setup"] for trial in trials):
        mine = [trial for trial in trials if trial["setup"] == name]
        setups[name] = {
            "per_s": median(trial["per_s"] for trial in mine),
            "per_s_trials": [trial["per_s"] for trial in mine],
            "alone_p50_ms": median(quantile(trial["alone_ms"], 0.50) for trial in mine),
            "alone_p99_ms": median(quantile(trial["alone_ms"], 0.99) for trial in mine),
            "cpu_us_per_task": _cpu_us(mine),
        }
    return {"setups": setups, "goals": [vars_of(goal) for goal in goals(setups)]}


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]


def _cpu_us(trials: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """CPU microseconds per task (bare: per chain) of each process."""
    return {
        name: median(
            trial["cpu_s"][name] / trial.get("tasks", trial.get("chains")) * 1e6 for trial in trials
        )
        for name in trials[0]["cpu_s"]
    }


def goals(setups: Mapping[str, Mapping[str, Any]]) -> list[Goal]:
    """Ours against the best bare pool, each figure against the pool that is best at it."""
    ours = setups[OURS]
    bare = [setup for name, setup in setups.items() if name != OURS]
    rate = ours["per_s"] / max(setup["per_s"] for setup in bare)
    alone = ours["alone_p50_ms"] / min(setup["alone_p50_ms"] for setup in bare)
    return [
        Goal(
            name="backlog: settled tasks/s over chains/s of the best bare pool",
            ratio=rate,
            wanted=f"≥ {BACKLOG_MIN:g}",
            passed=rate >= BACKLOG_MIN,
        ),
        Goal(
            name="one alone: p50 over that of the quickest bare pool",
            ratio=alone,
            wanted=f"≤ {ALONE_MAX:g}",
            passed=alone <= ALONE_MAX,
        ),
    ]


def vars_of(goal: Goal) -> dict[str, Any]:
    """A goal as JSON."""
    return {name: getattr(goal, name) for name in Goal.__slots__}


def grids(summary: Mapping[str, Any]) -> list[Grid]:
    """The tables of a run."""
    setups = summary["setups"]
    ours = setups[OURS]
    rates = Grid(
        title="Backlog drained, and one alone (medians of the trials)",
        head=("", "per second", "trials", "Clearlane ×", "alone p50 ms", "alone p99 ms"),
        rows=[
            (
                f"bare chain of four, {name}" if name != OURS else "Clearlane, one task",
                f"{setup['per_s']:,.0f}",
                " ".join(f"{rate:,.0f}" for rate in setup["per_s_trials"]),
                f"{ours['per_s'] / setup['per_s']:.2f}",
                f"{setup['alone_p50_ms']:.1f}",
                f"{setup['alone_p99_ms']:.1f}",
            )
            for name, setup in setups.items()
        ],
    )
    cpu = Grid(
        title="CPU per task while the backlog drains, µs",
        head=("process", "µs"),
        rows=[
            *((name, f"{us:,.0f}") for name, us in ours["cpu_us_per_task"].items()),
            ("Clearlane, all", f"{sum(ours['cpu_us_per_task'].values()):,.0f}"),
            *(
                (f"bare chain, {name}", f"{sum(setup['cpu_us_per_task'].values()):,.0f}")
                for name, setup in setups.items()
                if name != OURS
            ),
        ],
    )
    aims = Grid(
        title="Goals",
        head=("goal", "wanted", "measured", ""),
        rows=[
            (goal["name"], goal["wanted"], f"{goal['ratio']:.2f}", _word(goal["passed"]))
            for goal in summary["goals"]
        ],
    )
    return [rates, cpu, aims]


def _word(passed: bool) -> str:
    return "pass" if passed else "FAIL"


def show(console: Console, summary: Mapping[str, Any]) -> None:
    """The tables and notes on a terminal."""
    for grid in grids(summary):
        table = Table(*grid.head, title=grid.title, title_justify="left")
        for column in table.columns[1:]:
            column.justify = "right"
        for row in grid.rows:
            table.add_row(*row)
        console.print(table)
    for note in NOTES:
        console.print(f"- {note}", style="dim", highlight=False)


def write(
    directory: Path,
    about: Mapping[str, Any],
    trials: Sequence[Mapping[str, Any]],
    summary: Mapping[str, Any],
) -> list[Path]:
    """Keep the run as `main.json` and `main.md` in `directory`; returns the two paths."""
    directory.mkdir(parents=True, exist_ok=True)
    content = {"about": about, "notes": NOTES, "summary": summary, "trials": trials}
    files = {
        directory / "main.json": json.dumps(content, indent=1, ensure_ascii=False) + "\n",
        directory / "main.md": _markdown(about, summary),
    }
    for path, text in files.items():
        path.write_text(text)
    return list(files)


def _markdown(about: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    lines = [
        "# Clearlane beside bare Celery",
        "",
        f"`{about['command']}`, {about['date']}, {about['cpu']}, {about['cores']} cores, "
        f"{about['memory_gib']} GiB, load before {about['load_before']}; {versions}.",
    ]
    for grid in grids(summary):
        lines += ["", f"## {grid.title}", "", _line(grid.head), _line(["---"] * len(grid.head))]
        lines += [_line(row) for row in grid.rows]
    lines += ["", "## How to read this", "", *(f"- {note}" for note in NOTES), ""]
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
