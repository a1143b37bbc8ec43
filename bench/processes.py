"""Processes of a trial: started together, metered by CPU time, ended without leftovers."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from tests.servers import await_ready
from workers.process import Process

ROOT = Path(__file__).resolve().parents[1]
STOP_S = 15.0

Children = dict[str, subprocess.Popen[bytes]]
"""Running processes by name."""


@contextmanager
def together(processes: Sequence[Process], place: Path) -> Iterator[Children]:
    """All processes, ready to work while the block runs; their logs are in `place`/log."""
    children: Children = {}
    others = {child.pid for child in psutil.Process().children()}
    try:
        for process in processes:
            children[process.name] = _start(process, place)
        for process in processes:
            if process.ready is not None:
                await_ready(process, place)
        yield children
    finally:
        _stop(others)


def _start(process: Process, place: Path) -> subprocess.Popen[bytes]:
    with (place / "log" / f"{process.name}.log").open("ab") as log:
        return subprocess.Popen(
            process.argv,
            env=dict(process.env),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C is for us alone: we end the others in order
        )


def _stop(others: set[int]) -> None:
    """End every child that is not among `others`.

    The process table knows them all; a Ctrl-C in the middle of a start leaves us without a name.
    """
    mine = [child for child in psutil.Process().children() if child.pid not in others]
    for child in mine:
        with suppress(psutil.NoSuchProcess):
            child.terminate()
            child.resume()  # one that is held would never hear of it
    _, alive = psutil.wait_procs(mine, timeout=STOP_S)
    for child in alive:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
    psutil.wait_procs(alive)


def require_alive(children: Children, place: Path) -> None:
    """Raises RuntimeError with the end of its log when a process has died."""
    for name, child in children.items():
        if child.poll() is not None:
            log = (place / "log" / f"{name}.log").read_text()[-2000:]
            raise RuntimeError(f"{name} ended with {child.returncode}\n{log}")


def servers() -> dict[str, int]:
    """Pids of the embedded PostgreSQL and Valkey: children of this process."""
    found = {}
    for child in psutil.Process().children():
        for name in ("postgres", "valkey"):
            if child.name().startswith(name):
                found[name] = child.pid
    return found


def meter(children: Children) -> Callable[[], dict[str, float]]:
    """Starts counting; what it returns says how many CPU seconds each process used since."""
    pids = {name: child.pid for name, child in children.items()} | servers()
    before = _cpu_s(pids)

    def used() -> dict[str, float]:
        return {name: after - before[name] for name, after in _cpu_s(pids).items()}

    return used


def _cpu_s(pids: Mapping[str, int]) -> dict[str, float]:
    return {name: _tree_s(psutil.Process(pid)) for name, pid in pids.items()}


def _tree_s(process: psutil.Process) -> float:
    """User and system time of a process and all below it, those already ended included."""
    total = 0.0
    for member in [process, *process.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            times = member.cpu_times()
            total += times.user + times.system
            total += getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0)
    return total
