"""Processes that outlived their supervisor: found by what they are, never by name alone.

Three marks: pid with creation time from the run file, an environment variable that every child
inherits, and, for the servers, which rewrite their environment, the data directory they stand in.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import psutil

from workers import home as homes

MARK = "CLEARLANE_SUPERVISED"
"""Environment variable of every process under a supervisor; its value is the home."""

SERVERS = {"postgres": signal.SIGINT, "valkey-server": signal.SIGTERM}
"""Signal for an orderly end: PostgreSQL does not wait for its clients on SIGINT."""


POLL_S = 0.02
KILL_TIMEOUT_S = 10.0


def identify(pid: int, created: float) -> psutil.Process | None:
    """The process of that pid if it is still the one that was created then."""
    try:
        process = psutil.Process(pid)
        # The clock may have been stepped since; a reused pid is off by far more.
        same = abs(process.create_time() - created) < 1.0
    except psutil.Error:
        return None
    return process if same and is_alive(process) else None


def is_alive(process: psutil.Process) -> bool:
    """Whether it still does anything. A dead one may wait for long to be reaped by its parent."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def wait_gone(processes: Iterable[psutil.Process], timeout_s: float) -> list[psutil.Process]:
    """Wait until all are dead; returns those that are not when the time is over."""
    deadline = time.monotonic() + timeout_s
    while alive := [process for process in processes if is_alive(process)]:
        if time.monotonic() > deadline:
            break
        time.sleep(POLL_S)
    return alive


def workers_of(home: Path) -> list[psutil.Process]:
    """Every process a supervisor of `home` started, with its descendants, but the servers.

    The caller and its ancestors are never among them.
    """
    spared = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    found: dict[int, psutil.Process] = {}
    for entry in _recorded(home):
        process = identify(entry[0], entry[1])
        if process is not None:
            found |= {p.pid: p for p in _with_children(process)}
    for process in psutil.process_iter(["environ"]):
        if (process.info["environ"] or {}).get(MARK) == str(home):
            found[process.pid] = process
    return [
        process
        for pid, process in found.items()
        if pid not in spared and _name(process) not in SERVERS and is_alive(process)
    ]


def servers_in(directory: Path) -> list[psutil.Process]:
    """Every server process, children included, that stands in a data directory."""
    return [
        process
        for process in psutil.process_iter(["name", "cwd"])
        if process.info["name"] in SERVERS and process.info["cwd"] == str(directory)
    ]


def stop_servers(directory: Path, timeout_s: float = 30.0) -> int:
    """End the servers that stand in `directory` and wait for their children; says how many.

    Two servers on one data directory would destroy it, so this returns with none left.
    """
    found = servers_in(directory)
    pids = {process.pid for process in found}
    for process in found:
        name = _name(process)
        if name in SERVERS and _parent(process) not in pids:
            _signal(process, SERVERS[name])
    _end(found, timeout_s)
    return len(found)


def stop_workers(home: Path, timeout_s: float = 10.0) -> int:
    """End what a supervisor of `home` left behind, except its servers; says how many."""
    found = workers_of(home)
    for process in found:
        _signal(process, signal.SIGTERM)
    _end(found, timeout_s)
    # What a process started while it was being stopped is caught by its mark.
    _end(workers_of(home), 0.0)
    return len(found)


def reclaim(home: Path) -> int:
    """End all that a dead supervisor of `home` left, servers last; says how many processes.

    The caller holds the home's lock: nobody starts anything meanwhile.
    """
    count = stop_workers(home)
    return count + sum(stop_servers(home / name) for name in ("postgres", "valkey"))


def of(home: Path) -> list[psutil.Process]:
    """Every process that belongs to `home` now, but its supervisor."""
    servers = [p for name in ("postgres", "valkey") for p in servers_in(home / name)]
    return workers_of(home) + servers


def _end(processes: Sequence[psutil.Process], timeout_s: float) -> None:
    alive = wait_gone(processes, timeout_s)
    for process in alive:
        _signal(process, signal.SIGKILL)
    wait_gone(alive, KILL_TIMEOUT_S)


def _recorded(home: Path) -> Iterable[tuple[int, float]]:
    for entry in homes.read_json(home / homes.RUN).get("processes", []):
        if entry.get("pid") and entry.get("created"):
            yield int(entry["pid"]), float(entry["created"])


def _with_children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return [process, *process.children(recursive=True)]
    except psutil.Error:
        return [process]


def _name(process: psutil.Process) -> str:
    try:
        return process.name()
    except psutil.Error:
        return ""


def _parent(process: psutil.Process) -> int | None:
    try:
        return process.ppid()
    except psutil.Error:
        return None


def _signal(process: psutil.Process, number: int) -> None:
    try:
        process.send_signal(number)
    except psutil.Error:
        return
