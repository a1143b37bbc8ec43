"""PostgreSQL and Valkey of a campaign: killed, stopped, stalled and started by the test itself."""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import psutil
import psycopg
import redis

from tests.servers import await_ready
from workers.servers import Server
from workers.users import identity


class Managed:
    """One embedded server under the test's control; a context manager that starts and stops it."""

    def __init__(self, server: Server, place: Path) -> None:
        self._process = server.process
        self._place = place
        self._child: subprocess.Popen[bytes] | None = None
        self.url = server.url
        self.port = int(urlsplit(server.url).port or 0)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start it on the data there is, and wait until it answers."""
        process = self._process
        if process.clear is not None:
            process.clear()
        with (self._place / "log" / f"{process.name}.log").open("ab") as log:
            self._child = subprocess.Popen(
                process.argv,
                env=dict(process.env),
                cwd=self._place,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **identity(process.user),
            )
        await_ready(process, self._place)

    def stop(self) -> None:
        """End it in order: PostgreSQL lets go of its clients at once."""
        if self._child is None:
            return
        self._signal_all(signal.SIGCONT)
        self._child.send_signal(self._process.stop_signal)
        try:
            self._child.wait(self._process.stop_timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
        self._child = None

    def kill(self) -> None:
        """kill -9 of all its processes."""
        assert self._child is not None
        self._signal_all(signal.SIGKILL)
        self._child.wait()
        self._child = None

    @contextmanager
    def stalled(self) -> Iterator[None]:
        """SIGSTOP all its processes while the block runs."""
        self._signal_all(signal.SIGSTOP)
        try:
            yield
        finally:
            self._signal_all(signal.SIGCONT)

    def forget(self) -> None:
        """Remove what Valkey keeps on disk; for a server that is down."""
        assert self._child is None
        shutil.rmtree(self._place / "valkey" / "appendonlydir", ignore_errors=True)

    def _signal_all(self, number: signal.Signals) -> None:
        """The parent first: it must not start children that are missed."""
        assert self._child is not None
        with suppress(psutil.NoSuchProcess):
            parent = psutil.Process(self._child.pid)
            parent.send_signal(number)
            for child in parent.children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    child.send_signal(number)

    def sql(self, statement: str, values: Any = None) -> list[Any]:
        """One statement as the owner of the database, past any proxy."""
        with psycopg.connect(self.url, autocommit=True, connect_timeout=10) as connection:
            cursor = connection.execute(statement, values)
            return list(cursor.fetchall()) if cursor.description else []

    def valkey(self) -> redis.Redis:
        """A client past any proxy."""
        return redis.Redis.from_url(self.url, decode_responses=True)
