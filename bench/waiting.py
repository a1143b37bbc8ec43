"""Section `waiting`: what a million waiting tasks cost, and what they make the others cost."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import psycopg
import redis

from bench.backlog import drained, total_us
from bench.section import Bench, Figures, Grid, Section, Trial
from bench.stand import Stand, running

FEW = 20_000
MOST_S = 20.0


def _valkey(stand: Stand) -> dict[str, int]:
    with redis.Redis.from_url(stand.bench.redis_url) as client:
        memory: dict[str, Any] = client.info("memory")
        return {"keys": int(client.dbsize()), "bytes": int(memory["used_memory"])}


def _database_bytes(stand: Stand) -> int:
    with psycopg.connect(stand.url, autocommit=True) as watch:
        row = watch.execute(
            "SELECT sum(pg_total_relation_size(name)) FROM unnest(%s::regclass[]) AS t (name)",
            (["task", "task_body"],),
        ).fetchone()
    assert row is not None
    return int(row[0])


def measure(bench: Bench, number: int) -> Trial:
    """A short backlog, then a long one of which only the first part is worked off."""
    few, many = bench.size(FEW, 1_000), bench.size(1_000_000, 5_000)
    with running(bench, f"waiting_{number}") as stand:
        stand.warm()
        short = drained(stand, few)
        bench.say(f"{few:,} waiting: {short['per_s']:,.0f}/s, {total_us(short):,.0f} µs CPU each")
        before, size = _valkey(stand), _database_bytes(stand)
        started = time.perf_counter()
        stand.stage(many)
        staged_s = time.perf_counter() - started
        after = _valkey(stand)
        bytes_each = (_database_bytes(stand) - size) / many
        bench.say(f"{many:,} waiting after {staged_s:.0f} s")
        long = drained(stand, 0, bench.size(int(MOST_S), 2))
        at_work = _valkey(stand)
        bench.say(f"{many:,} waiting: {long['per_s']:,.0f}/s, {total_us(long):,.0f} µs CPU each")
    return {
        "few": few,
        "many": many,
        "short": short,
        "long": long,
        "valkey": {"before": before, "after": after, "at work": at_work},
        "database_bytes_each": bytes_each,
        "submitted_per_s": many / staged_s,
    }


def summarise(trials: Sequence[Trial]) -> Figures:
    """The one trial."""
    trial = trials[0]
    return {
        **{name: trial[name] for name in ("few", "many", "valkey", "database_bytes_each")},
        "submitted_per_s": trial["submitted_per_s"],
        "per_s": {name: trial[name]["per_s"] for name in ("short", "long")},
        "cpu_us": {name: total_us(trial[name]) for name in ("short", "long")},
        "dispatch_us": {
            name: sum(trial[name]["steps_us"]["dispatcher"].values()) for name in ("short", "long")
        },
        "growth": total_us(trial["long"]) / total_us(trial["short"]),
        "keys_before": trial["valkey"]["before"]["keys"],
        "keys_after": trial["valkey"]["after"]["keys"],
    }


def grids(figures: Figures) -> list[Grid]:
    """What they take, and what they slow down."""
    sizes = {"short": figures["few"], "long": figures["many"]}
    speed = [
        (
            f"{sizes[name]:,}",
            f"{figures['per_s'][name]:,.0f}",
            f"{figures['cpu_us'][name]:,.0f}",
            f"{figures['dispatch_us'][name]:,.0f}",
        )
        for name in sizes
    ]
    room = [
        (f"Valkey {when}", f"{row['keys']:,} keys", f"{row['bytes']:,} bytes")
        for when, row in figures["valkey"].items()
    ]
    each = f"{figures['database_bytes_each']:,.0f} bytes each"
    room.append(("PostgreSQL, a row and its payload with their indexes", "", each))
    head = ("waiting at first", "settled/s", "CPU µs/task", "of it dispatch µs")
    return [
        Grid(title="Many waiting tasks: speed of the others", head=head, rows=speed),
        Grid(title=f"{figures['many']:,} waiting tasks: room", head=("", "", ""), rows=room),
    ]


SECTION = Section(
    name="waiting",
    about="a million waiting tasks: Valkey, PostgreSQL, and the dispatch",
    measure=measure,
    summarise=summarise,
    grids=grids,
    notes=(
        f"Waiting: submitted through the intake while the dispatcher is held; then {MOST_S:g} s "
        "of work on them, in which the fleet holds as many as always.",
    ),
    trials=1,
    long=True,
)
