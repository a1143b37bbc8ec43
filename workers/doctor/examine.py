"""Runs all checks at once, each in a thread of its own that nobody waits for beyond its time.

Rows M30, M40.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from workers.doctor.finding import Finding, fail

CHECK_S = 15.0  # the longest a check may take; all run at the same time

Check = Callable[[], Sequence[Finding]]


def examine(checks: Mapping[str, Check], timeout_s: float = CHECK_S) -> Iterator[list[Finding]]:
    """The findings of each check, in the order given, after `timeout_s` in all at the latest."""
    started = {name: _Run(name, check) for name, check in checks.items()}
    deadline = time.monotonic() + timeout_s
    for run in started.values():
        yield run.result(max(0.0, deadline - time.monotonic()), timeout_s)


class _Run:
    """One check under way. Its thread is a daemon: one that hangs does not keep the program."""

    def __init__(self, name: str, check: Check) -> None:
        self._name, self._check = name, check
        self._found: list[Finding] = []
        self._thread = threading.Thread(target=self._run, name=f"check-{name}", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._found = list(self._check())
        except Exception as error:  # the other checks go on, and this one has found something
            said = " ".join(str(error).split()) or "no reason given"
            self._found = [
                fail(self._name, f"{type(error).__name__}: {said}", "correct that, and ask again")
            ]

    def result(self, wait_s: float, timeout_s: float) -> list[Finding]:
        self._thread.join(wait_s)
        if self._thread.is_alive():
            remedy = "see what it waits for: a server or a file system that does not answer"
            return [fail(self._name, f"it gave no answer within {timeout_s:g} s", remedy)]
        return self._found
