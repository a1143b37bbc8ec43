"""The seeded half of `make chaos`: schedules, real kills and planted bugs, on servers of its own.

    python -m tests.chaos.run                         everything, at the scale of one change
    python -m tests.chaos.run schedules --schedules 500000 --seed 7000000
    python -m tests.chaos.run --seed-one 1043         one schedule, told step by step

Exit code 0: all held, and all planted bugs were caught. Nothing is tried twice.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field

import structlog

from tests.chaos.crashpoints import SCENES, Mode, hits
from tests.chaos.planted import BUGS
from tests.chaos.schedule import Played, play
from tests.chaos.schedule_stage import stage
from tests.servers import embedded_servers, scratch

SCHEDULES, SEED = 5_000, 1
Job = tuple[Callable[..., "Report"], tuple[object, ...]]
HUNT_MAX = 1_000  # schedules within which each planted bug must be caught
SLICE = 100  # schedules a process plays before it reports
SHOWN_MAX = 5  # violations shown of one failure
KILLS_MIN = 120


@dataclass(kw_only=True, slots=True)
class Report:
    """What a process brings back. `failures` are texts for people, `struck` counts faults."""

    done: int = 0
    tasks: int = 0
    struck: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def add(self, other: Report) -> None:
        """Take in another one."""
        self.done += other.done
        self.tasks += other.tasks
        self.struck += other.struck
        self.failures += other.failures


def main(argv: Sequence[str]) -> int:
    """Run what was asked for; see the module's text."""
    options = _options(argv)
    if os.environ.get("PYTHONHASHSEED") != "0":  # the order of sets is part of a seed
        command = [sys.executable, "-m", "tests.chaos.run", *argv]
        os.execve(sys.executable, command, {**os.environ, "PYTHONHASHSEED": "0"})
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    with scratch() as directory, embedded_servers(directory) as (database_url, redis_url):
        servers = (database_url, redis_url)
        if options.seed_one is not None:
            return _show(play_on(servers, 0, options.seed_one))
        parts: dict[str, Callable[[], bool]] = {
            "schedules": lambda: schedules(servers, options.seed, options.schedules, options.jobs),
            "kills": lambda: kills(servers, options.jobs),
            "bugs": lambda: bugs(servers, options.jobs),
        }
        wanted = [options.part] if options.part else list(parts)
        held = [parts[part]() for part in wanted]
    return 0 if all(held) else 1


def schedules(servers: tuple[str, str], seed: int, count: int, jobs: int) -> bool:
    """Play `count` seeds from `seed` on; True if all held."""
    slices = [
        range(first, min(first + SLICE, seed + count)) for first in range(seed, seed + count, SLICE)
    ]
    total = _share("schedules", servers, [(_slice, (part,)) for part in slices], jobs)
    for fault, times in sorted(total.struck.items()):
        print(f"  {times:7} × {fault}")
    if total.done != count or not total.tasks:
        total.failures.append(f"{total.done} of {count} schedules with {total.tasks} tasks")
    return not total.failures


def kills(servers: tuple[str, str], jobs: int) -> bool:
    """Hit every scene at every point in every mode; True if all held, and often enough."""
    work = [(_scene, (number, mode)) for number in range(len(SCENES)) for mode in Mode]
    total = _share("kills", servers, work, jobs)
    for mode, times in sorted(total.struck.items()):
        print(f"  {times:7} × {mode}")
    killed = sum(times for mode, times in total.struck.items() if mode != Mode.WIRE_LOST)
    if killed < KILLS_MIN:
        print(f"only {killed} processes were killed, {KILLS_MIN} are wanted")
    return not total.failures and killed >= KILLS_MIN


def bugs(servers: tuple[str, str], jobs: int) -> bool:
    """Plant each bug and hunt it; True if each was caught under an id that it breaks."""
    total = _share("bugs", servers, [(_bug, (number,)) for number in range(len(BUGS))], jobs)
    return not total.failures


def play_on(servers: tuple[str, str], job: int, seed: int) -> Played:
    """One seed on a stage of its own."""
    with stage(*_own(servers, job)) as made:
        return play(made, seed)


def _share(name: str, servers: tuple[str, str], work: Sequence[Job], jobs: int) -> Report:
    """Spread work over processes, say what fails when it fails, add up."""
    total, started_s = Report(), time.monotonic()
    fork = multiprocessing.get_context("fork")
    numbers = fork.Queue()
    for number in range(jobs):
        numbers.put(number)
    with ProcessPoolExecutor(jobs, fork, _start, (numbers, servers)) as pool:
        for future in [pool.submit(do, *given) for do, given in work]:
            report = future.result()
            total.add(report)
            for failure in report.failures:
                print(failure, flush=True)
    took_s = time.monotonic() - started_s
    print(
        f"{name}: {total.done} done, {total.tasks} tasks, {len(total.failures)} failed,"
        f" {took_s:.1f} s in {jobs} processes",
        flush=True,
    )
    return total


_place: list[tuple[str, str]] = []


def _start(numbers: multiprocessing.Queue[int], servers: tuple[str, str]) -> None:
    _place[:] = [_own(servers, numbers.get())]


def _own(servers: tuple[str, str], job: int) -> tuple[str, str]:
    """The same servers, with a Valkey database of this job alone."""
    database_url, redis_url = servers
    return database_url, f"{redis_url.rpartition('/')[0]}/{job}"


def _slice(seeds: range) -> Report:
    report = Report()
    with stage(*_place[0]) as made:
        for seed in seeds:
            played = play(made, seed)
            report.done += 1
            report.tasks += played.tasks
            report.struck.update(played.struck)
            if played.violations:
                report.failures.append(report_of(played))
    return report


def _scene(number: int, mode: Mode) -> Report:
    report, scene = Report(), SCENES[number]
    with stage(*_place[0]) as made:
        for hit in hits(made, scene, mode):
            report.done += 1
            report.struck[str(mode)] += hit.struck
            if hit.violations:
                shown = "\n".join(f"    {item}" for item in hit.violations[:SHOWN_MAX])
                report.failures.append(f"{scene.name}, {mode} at {hit.at} FAILED\n{shown}")
    return report


def _bug(number: int) -> Report:
    bug, report = BUGS[number], Report(done=1)
    with stage(*_place[0]) as made, bug.planted():
        for seed in range(SEED, SEED + HUNT_MAX):
            played = play(made, seed)
            report.tasks += played.tasks
            if any(item.invariant in bug.breaks for item in played.violations):
                print(f"  {bug.name}: caught by seed {seed}", flush=True)
                return report
    report.failures.append(f"{bug.name}: NOT CAUGHT by seeds {SEED} to {seed}")
    return report


def report_of(played: Played) -> str:
    """A failed seed: what was wrong, and the command that plays it again."""
    shown = "\n".join(f"    {item}" for item in played.violations[:SHOWN_MAX])
    again = f"python -m tests.chaos.run --seed-one {played.seed}"
    return f"seed {played.seed} FAILED; again: {again}\n{shown}"


def _show(played: Played) -> int:
    print("\n".join(played.trace))
    for item in played.violations:
        print(item)
    print(f"seed {played.seed}: {played.tasks} tasks, {len(played.violations)} violations")
    return 1 if played.violations else 0


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.run")
    parser.add_argument("part", nargs="?", choices=["schedules", "kills", "bugs"])
    parser.add_argument("--schedules", type=int, default=SCHEDULES)
    parser.add_argument("--seed", type=int, default=SEED, help="the first seed")
    parser.add_argument("--jobs", type=int, default=3)
    parser.add_argument("--seed-one", type=int, help="play this seed alone and tell it")
    return parser.parse_args(argv)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
