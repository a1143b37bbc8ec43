"""The whole product on real processes, started and stopped by its own commands."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil

from ledger import intake
from ledger.errors import Unavailable
from ledger.intake import Submission
from tasks.context import Context
from tests.program import COMMAND
from tests.servers import scratch
from workers.audit import audit
from workers.bootstrap import build_context
from workers.settings import Settings

T = TypeVar("T")

POOLS = ("reserve1", "execute1", "validate1", "commit1", "control1")
LOOK_S = 0.02
SETTINGS = {
    "CLEARLANE_LEASE_MARGIN_S": "1",  # what is lost is found quickly
    # A test kills one process more often than an operator would accept.
    "CLEARLANE_RESTART_BUDGET": "100",
    "CLEARLANE_BACKOFF_FIRST_S": "0.1",
    "CLEARLANE_BACKOFF_MAX_S": "0.1",
}


def await_true(what: str, condition: Callable[[], T | None], timeout_s: float = 60.0) -> T:
    """The first value of `condition` that is true; a server that is away counts as not yet."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            found = condition()
        except Unavailable:
            found = None
        if found:
            return found
        assert time.monotonic() < deadline, f"waited {timeout_s:g} s in vain until {what}"
        time.sleep(LOOK_S)


def clearlane(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """One command, as an operator would run it, with no server but its own."""
    given = {"DATABASE_URL", "REDIS_URL", "CELERY_BROKER_URL", "CLEARLANE_DATA"}
    inherited = {name: value for name, value in os.environ.items() if name not in given}
    return subprocess.run(
        [*COMMAND, *arguments],
        env={**inherited, **SETTINGS},
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@dataclass(frozen=True, kw_only=True)
class Stack:
    """One stack and how to look at it. Its addresses stay the same when it starts again."""

    home: Path
    options: tuple[str, ...]
    client: str
    addresses: dict[str, str]
    context: Context

    def status(self) -> dict[str, Any]:
        """What `status --json` says of each process, by name."""
        return {entry["name"]: entry for entry in _status(self.home)["processes"]}

    def pids(self) -> dict[str, int]:
        return {name: entry["pid"] for name, entry in self.status().items()}

    def kill(self, name: str) -> None:
        """kill -9, and wait until the supervisor has it running again."""
        before = self.pids()[name]
        os.kill(before, signal.SIGKILL)
        await_true(f"{name} runs again", lambda: self.is_back(name, before))

    def is_back(self, name: str, before: int) -> bool:
        """Whether it runs, as another process than before."""
        entry = self.status()[name]
        return bool(entry["state"] == "running" and entry["pid"] != before)

    def up(self) -> None:
        """Start it again on the same data."""
        _up(self.home, self.options)

    def supervisor(self) -> psutil.Process:
        (found,) = [process for process in self.processes() if "up" in process.cmdline()]
        return found

    def processes(self) -> list[psutil.Process]:
        """Every process of this stack that is alive, found by where it stands or what it names."""
        return [process for process in psutil.process_iter() if _belongs(process, self.home)]

    def submit(self, family: str, count: int, payload: Any = None) -> list[str]:
        given = {"source": "import os\n"} if payload is None else payload
        asked = [Submission(family=family, payload=given) for _ in range(count)]
        found = intake.submit(self.context.engine, self.client, asked, self.context.now())
        return [accepted.task for accepted in found]

    def rows(self, tasks: Sequence[str]) -> list[dict[str, Any]]:
        """The tasks as the ledger has them, in the order given."""
        found = intake.task_rows(self.context.engine, tasks)
        return [found[task] for task in tasks]

    def ended(self, tasks: Sequence[str], timeout_s: float = 60.0) -> list[dict[str, Any]]:
        """Wait until every task has ended; their rows."""
        left: list[dict[str, Any]] = []

        def over() -> bool:
            left[:] = [row for row in self.rows(tasks) if row["state"] == "INIT"]
            return not left

        with suppress(AssertionError):
            await_true("all tasks have ended", over, timeout_s)
        assert not left, f"{len(left)} have not ended after {timeout_s:g} s, first {left[0]}"
        return self.rows(tasks)

    def in_flight(self) -> int:
        return self.context.reservations.count_in_flight()

    def check(self) -> None:
        """Once nothing is in flight any more: C1 to C5 hold."""
        await_true("nothing is in flight", lambda: self.in_flight() == 0)
        found = audit(self.context)
        assert found.violations == []
        assert found.in_flight == 0
        assert found.totals["settlements"] > 0, "an audit of nothing proves nothing"


@contextmanager
def started(client: str, *options: str) -> Iterator[Stack]:
    """A stack of its own while the block runs; always stopped, whatever happened to it."""
    # Not pytest's tmp_path: the servers may run as another user, who could not get there.
    with scratch() as directory:
        home = directory / "home"
        try:
            _up(home, options)
            addresses = {k: v for k, v in _status(home).items() if k.endswith("_url")}
            context = build_context(
                Settings.model_validate(
                    {
                        "DATABASE_URL": addresses["database_url"],
                        "REDIS_URL": addresses["redis_url"],
                        "lease_margin_s": 1.0,
                    }
                )
            )
            yield Stack(
                home=home, options=options, client=client, addresses=addresses, context=context
            )
            context.engine.dispose()
        finally:
            clearlane("down", "--data", str(home))


def _up(home: Path, options: Sequence[str]) -> None:
    done = clearlane("up", "--detach", "--data", str(home), *options)
    assert done.returncode == 0, done.stdout + done.stderr


def _status(home: Path) -> dict[str, Any]:
    done = clearlane("status", "--json", "--data", str(home))
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _belongs(process: psutil.Process, home: Path) -> bool:
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        words = process.cmdline()
        return process.cwd().startswith(f"{home}") or any(str(home) in word for word in words)
    except psutil.Error:
        return False
