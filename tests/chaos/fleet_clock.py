"""A wall clock that jumps while processes run: `time.time` of every Python process of a stack.

The monotonic clock stays as it is, as it does when an operator or NTP sets a real clock.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Python imports a module of this name before anything else, in every process that finds it.
SITE = """\
import mmap, os, struct, time
with open(os.environ["CHAOS_CLOCK"], "rb") as file:
    shift = mmap.mmap(file.fileno(), 8, access=mmap.ACCESS_READ)
true = time.time
time.time = lambda: true() + struct.unpack("d", shift)[0]
"""


class Clock:
    """The clock of the processes that get `env`, made in `directory`."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        (directory / "sitecustomize.py").write_text(SITE)
        path = directory / "shift"
        path.write_bytes(struct.pack("d", 0.0))
        with path.open("r+b") as file:
            self._shift = mmap.mmap(file.fileno(), 8)
        places = [str(directory), *filter(None, [os.environ.get("PYTHONPATH")])]
        self.env = {"PYTHONPATH": os.pathsep.join(places), "CHAOS_CLOCK": str(path)}

    @contextmanager
    def shifted(self, seconds: float) -> Iterator[None]:
        """Every clock jumps now, and back at the end of the block."""
        self._set(seconds)
        try:
            yield
        finally:
            self._set(0.0)

    def _set(self, seconds: float) -> None:
        self._shift[:8] = struct.pack("d", seconds)
