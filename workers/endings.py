"""Waiting until tasks end: told by PostgreSQL, and looking by oneself at a bounded interval."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from ledger.db import ENDED
from ledger.intake import task_rows
from ledger.listen import Listener
from tasks.context import Context

QUIET_S = 5.0  # without an ending before the caller hears why; then twice as long each time
LOOK_S = 1.0  # the longest without looking at all that wait, whatever one was told
READ_MAX = 200  # tasks in one read

Row = dict[str, Any]


def endings(
    context: Context,
    tasks: Sequence[str],
    timeout_s: float | None,
    quiet: Callable[[str], None],
) -> Iterator[Row]:
    """Each task's row (`ledger.intake.task_rows`) as soon as it has ended, in that order.

    `quiet` is called with the first unfinished task when none has ended for a while.
    Stops when all have ended or the time is over. Raises Unavailable when PostgreSQL goes away.
    """
    waiting = dict.fromkeys(tasks)
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    url = context.engine.url.render_as_string(hide_password=False)
    with Listener(url, ENDED) as listener:
        told: set[str] = set()
        looked_at = 0.0
        quiet_at, quiet_s = time.monotonic() + QUIET_S, QUIET_S
        while True:
            if time.monotonic() - looked_at >= LOOK_S:
                told, looked_at = set(waiting), time.monotonic()
            for row in _ended(context, [task for task in told if task in waiting]):
                del waiting[str(row["id"])]
                quiet_at = time.monotonic() + quiet_s
                yield row
            left_s = LOOK_S if deadline is None else min(LOOK_S, deadline - time.monotonic())
            if not waiting or left_s <= 0:
                return
            if time.monotonic() >= quiet_at:
                quiet(next(iter(waiting)))
                quiet_s *= 2
                quiet_at = time.monotonic() + quiet_s
            told = {
                task for _, payload in listener.wait(left_s) for task in json.loads(payload or "[]")
            }


def _ended(context: Context, tasks: Iterable[str]) -> Iterator[Row]:
    """Those of the tasks that have ended; a bounded number of results in memory at a time."""
    rest = iter(tasks)
    while part := list(islice(rest, READ_MAX)):
        for row in task_rows(context.engine, part).values():
            if row["state"] != "INIT":
                yield row
