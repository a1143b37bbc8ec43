"""The two embedded servers alone, for tests that need real ones."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from workers import home, servers
from workers.process import Process
from workers.users import identity

START_S = 90.0


@contextmanager
def scratch() -> Iterator[Path]:
    """A directory of one test, for servers.

    Not below pytest's own: whenever root starts another run, pytest closes that to all other
    users, and the servers' user could no longer get to its data.
    """
    with TemporaryDirectory(prefix="clearlane-", ignore_cleanup_errors=True) as directory:
        yield Path(directory).resolve()


@contextmanager
def embedded_servers(directory: Path) -> Iterator[tuple[str, str]]:
    """PostgreSQL and Valkey on `directory` while the block runs: (database URL, Redis URL)."""
    place = home.prepare(directory)
    with ExitStack() as stack:
        made = [servers.postgres(place), servers.valkey(place)]
        for server in made:
            stack.enter_context(running(server.process, place))
        for server in made:
            await_ready(server.process, place)
        yield made[0].url, made[1].url


@contextmanager
def running(process: Process, place: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The process, started in the foreground and stopped in order at the end."""
    if process.clear is not None:
        process.clear()
    with (place / "log" / f"{process.name}.log").open("ab") as log:
        child = subprocess.Popen(
            process.argv,
            env=dict(process.env),
            cwd=place,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            **identity(process.user),
        )
    try:
        yield child
    finally:
        child.send_signal(process.stop_signal)
        try:
            child.wait(process.stop_timeout_s)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def await_ready(process: Process, place: Path) -> None:
    """Block until the process answers, or fail with the end of its log."""
    assert process.ready is not None
    deadline = time.monotonic() + START_S
    while (reason := asyncio.run(process.ready())) is not None:
        if time.monotonic() > deadline:
            log = (place / "log" / f"{process.name}.log").read_text()[-2000:]
            raise AssertionError(f"{process.name} is not ready: {reason}\n{log}")
        time.sleep(0.02)
