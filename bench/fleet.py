"""Section `fleet`: what a task costs with few agents and with very many."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

from bench import stats
from bench.backlog import drained, total_us
from bench.section import Bench, Figures, Grid, Section, Trial
from bench.stand import AGENTS, SLOTS, echo_agents, running

SMALL = 10
SEATS = AGENTS * SLOTS  # in the whole fleet, whatever its size: what is in flight stays alike
MOST_S = 25.0  # a backlog is cut off here; the cost of a task is known by then


def measure(bench: Bench, number: int) -> Trial:
    """The same backlog with ten agents, then with as many as asked for."""
    found: Trial = {"fleets": {}}
    for agents in (SMALL, bench.size(1_000, 100), bench.size(10_000, 1_000)):
        crowd = echo_agents(agents, max(1, SEATS // agents))
        with running(bench, f"fleet_{agents}_{number}", agents=crowd) as stand:
            # Pools are made when they are first needed: not what is measured.
            stand.stage(1)
            stand.drain()
            trial = drained(stand, bench.size(6_000, 500), MOST_S)
        found["fleets"][str(agents)] = trial
        bench.say(f"{agents:,} agents: {trial['per_s']:,.0f}/s, {total_us(trial):,.0f} µs CPU each")
    return found


def summarise(trials: Sequence[Trial]) -> Figures:
    """Medians by the number of agents."""
    fleets: dict[str, Any] = {}
    for agents in trials[0]["fleets"]:
        mine = [trial["fleets"][agents] for trial in trials]
        fleets[agents] = {
            "per_s": median(trial["per_s"] for trial in mine),
            "cpu_us": median(total_us(trial) for trial in mine),
            "processes_us": stats.medians([trial["cpu_us"]["process"] for trial in mine]),
        }
    sizes = sorted(fleets, key=int)
    return {
        "fleets": fleets,
        "growth": fleets[sizes[-1]]["cpu_us"] / fleets[sizes[0]]["cpu_us"],
    }


def grids(figures: Figures) -> list[Grid]:
    """One column per fleet, one row per process."""
    fleets = list(figures["fleets"].values())
    names = fleets[0]["processes_us"]
    rows = [
        ("settled/s", *(f"{fleet['per_s']:,.0f}" for fleet in fleets)),
        ("CPU of a task, µs", *(f"{fleet['cpu_us']:,.0f}" for fleet in fleets)),
        *(
            (f"of it {name}", *(f"{fleet['processes_us'].get(name, 0.0):,.0f}" for fleet in fleets))
            for name in names
        ),
    ]
    head = ("", *(f"{int(agents):,} agents" for agents in figures["fleets"]))
    return [Grid(title="A task by the size of the fleet", head=head, rows=rows)]


SECTION = Section(
    name="fleet",
    about="CPU per task with 10, 1,000 and 10,000 agents",
    measure=measure,
    summarise=summarise,
    grids=grids,
    notes=(
        f"Fleet: about {SEATS:,} slots in every fleet of up to that size, at least one for each "
        f"agent; a backlog that takes longer than {MOST_S:g} s is cut off and its cost is per task "
        "settled by then.",
    ),
    trials=1,
)
