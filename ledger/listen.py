"""Waiting for PostgreSQL to say that something happened. A notification is a hint to look."""

from __future__ import annotations

from types import TracebackType

import psycopg
from psycopg import sql

from ledger.db import PEER_GONE
from ledger.errors import Unavailable


class Listener:
    """One connection that listens on some channels; a context manager.

    Raises Unavailable when the server is not there or goes away.
    """

    def __init__(self, url: str, *channels: str) -> None:
        try:
            self._connection = psycopg.connect(
                url.replace("postgresql+psycopg://", "postgresql://", 1),
                autocommit=True,
                application_name="clearlane-listener",
                **PEER_GONE,
            )
            for channel in channels:
                self._connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
        except psycopg.OperationalError as error:
            raise _unavailable(error) from error

    def wait(self, timeout_s: float) -> list[tuple[str, str]]:
        """(channel, payload) of what has arrived, as soon as anything has; empty at the timeout."""
        try:
            found = list(self._connection.notifies(timeout=timeout_s, stop_after=1))
            if found:
                found += list(self._connection.notifies(timeout=0))
        except psycopg.OperationalError as error:
            raise _unavailable(error) from error
        return [(item.channel, item.payload) for item in found]

    def __enter__(self) -> Listener:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._connection.close()


def _unavailable(error: Exception) -> Unavailable:
    reason = (str(error).strip().splitlines() or ["no answer"])[0]
    return Unavailable("postgresql", reason, "check DATABASE_URL and that the server runs")
