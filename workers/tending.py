"""What a running stack needs now and then: logs that do not fill the disk, and a look at processes
that stand still without being dead.

A process stopped by a signal (SIGSTOP, a forgotten debugger) holds its place and does nothing: it
is noticed by its state in the process table. Nothing else counts as hung: a worker that waits in
place for a server that is away answers no ping either, and to restart it would only make an outage
worse (row M41).
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import psutil

from workers.home import LOG_BYTES_MAX


class Standstill:
    """How long each process has been stopped by a signal, as far as one has looked."""

    def __init__(self) -> None:
        self._since: dict[int, float] = {}

    def look(self, pids: set[int]) -> dict[int, float]:
        """Seconds since each of these was first seen stopped; those that run are left out."""
        now = time.monotonic()
        halted = {pid for pid in pids if is_stopped(pid)}
        self._since = {pid: self._since.get(pid, now) for pid in halted}
        return {pid: now - since for pid, since in self._since.items()}


def is_stopped(pid: int) -> bool:
    """Whether a signal has stopped it; one that a debugger holds is somebody's business."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    except psutil.Error:
        return False


def rotate(path: Path, limit: int = LOG_BYTES_MAX) -> bool:
    """Put a log that has grown beyond `limit` bytes aside as `.1`, while its process writes on.

    The process keeps its descriptor, which appends: the content is copied and the file emptied.
    What is written in the instant between the two is lost.
    """
    try:
        with path.open("rb+") as log:
            if os.fstat(log.fileno()).st_size <= limit:
                return False
            fresh = path.with_suffix(".log.1.new")
            with fresh.open("wb") as aside:
                os.fchmod(aside.fileno(), 0o600)
                shutil.copyfileobj(log, aside)
            log.truncate(0)
        fresh.replace(path.with_suffix(".log.1"))
    except OSError:
        return False  # a full disk must not take down what still runs
    return True
