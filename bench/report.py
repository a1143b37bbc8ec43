"""What a run says: figures, goals, the machine; as tables for people and as JSON."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from bench.goals import judge
from bench.section import Figures, Grid, Section, Trial

PACKAGES = ("celery", "kombu", "redis", "hiredis", "psycopg", "sqlalchemy", "aiohttp", "clearlane")
KEPT_MAX = 200  # values of a series in the JSON
PEERS = ("dbos", "dramatiq", "orjson", "urllib3")


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """A run. left_out: why a section was not measured, by its name."""

    about: Mapping[str, Any]
    sections: Sequence[Section]
    trials: Mapping[str, Sequence[Trial]]
    left_out: Mapping[str, str]

    def figures(self) -> dict[str, Figures]:
        """The figures of every section that was measured."""
        return {
            section.name: section.summarise(self.trials[section.name])
            for section in self.sections
            if self.trials.get(section.name)
        }

    def grids(self) -> list[Grid]:
        """Goals first, then the tables of each section."""
        figures = self.figures()
        found = [
            Grid(
                title="Goals",
                head=("goal", "wanted", "measured", ""),
                rows=[
                    (goal.name, goal.wanted, f"{goal.ratio:,.2f}", goal.verdict)
                    for goal in judge(figures)
                ],
            )
        ]
        for section in self.sections:
            if section.name in figures:
                found += section.grids(figures[section.name])
        return [grid for grid in found if grid.rows]

    def notes(self) -> list[str]:
        """How to read the figures, and what is missing."""
        measured = [section for section in self.sections if self.trials.get(section.name)]
        return [
            *(note for section in measured for note in section.notes),
            *(f"Left out: `{name}`: {reason}." for name, reason in self.left_out.items()),
        ]


def machine(versions: Mapping[str, str], argv: Sequence[str]) -> dict[str, Any]:
    """Versions, hardware, load, command and date."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        # Where the files were is nobody else's business.
        "command": " ".join(("python -m bench", *map(os.path.basename, argv))),
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "load_before": round(os.getloadavg()[0], 2),
        "system": platform.platform(),
        "versions": {
            "python": platform.python_version(),
            **versions,
            **{name: version(name) for name in PACKAGES},
        },
    }


def locked(lock: Path, names: Sequence[str] = PEERS) -> dict[str, str]:
    """The versions that a lock file pins."""
    pins = [
        line.split()[0].partition("==") for line in lock.read_text().splitlines() if "==" in line
    ]
    return {name: pin for name, _, pin in pins if name in names}


def _cpu_model() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def show(console: Console, report: Report) -> None:
    """The tables and notes on a terminal."""
    for grid in report.grids():
        table = Table(*grid.head, title=grid.title, title_justify="left")
        for column in table.columns[1:]:
            column.justify = "right"
        for row in grid.rows:
            table.add_row(*row)
        console.print(table)
    for note in report.notes():
        console.print(f"- {note}", style="dim", highlight=False, markup=False)


def write(directory: Path, name: str, report: Report) -> list[Path]:
    """Keep the run as `name`.json and `name`.md in `directory`; returns the two paths."""
    figures = report.figures()
    content = {
        "about": report.about,
        "goals": [asdict(goal) for goal in judge(figures)],
        "figures": figures,
        "notes": report.notes(),
        "trials": thinned(report.trials),
    }
    files = {
        directory / f"{name}.json": json.dumps(content, indent=1, ensure_ascii=False) + "\n",
        directory / f"{name}.md": markdown(report),
    }
    for path, text in files.items():
        path.write_text(text)
    return list(files)


def thinned(value: Any) -> Any:
    """The same with at most `KEPT_MAX` values of each long series, evenly spread over time.

    The figures were computed from all of them; tens of thousands tell a reader nothing more.
    """
    match value:
        case dict():
            return {key: thinned(item) for key, item in value.items()}
        case list():
            step = -(-len(value) // KEPT_MAX) or 1
            return [thinned(item) for item in value[::step]]
    return value


def markdown(report: Report) -> str:
    """The whole report as a page."""
    about = report.about
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    lines = [
        "# Clearlane beside its peers",
        "",
        f"`{about['command']}`, {about['date']}, {about['cpu']}, {about['cores']} cores, "
        f"{about['memory_gib']} GiB, load before {about['load_before']}; {versions}.",
    ]
    for grid in report.grids():
        lines += ["", f"## {grid.title}", "", _line(grid.head), _line(["---"] * len(grid.head))]
        lines += [_line(row) for row in grid.rows]
    lines += ["", "## How to read this", "", *(f"- {note}" for note in report.notes()), ""]
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
