"""The holder's side of a lane: take it, wait until it drains, keep it, give it back.

Rows M02, M03. PostgreSQL decides; Redis is told of every change, so that nothing new of the holder
before is reserved any more.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from types import TracebackType
from typing import Final

from ledger import lanes
from ledger.errors import Conflict, LaneLost, Unavailable
from ledger.lanes import Lane
from tasks.context import Context

RENEWALS: Final = 3  # in the length of a lease
LOOK_S: Final = 0.05  # between two looks at a lane that drains
RETRY_S: Final = 1.0  # between two attempts to renew a lease while PostgreSQL is away

Tell = Callable[[Lane], None]
Pause = Callable[[float], None]


def announce(context: Context, lane: Lane) -> Lane:
    """Tell Redis who holds the lane; returns it.

    That Redis is away is no reason to undo anything: PostgreSQL counts what is in flight and
    refuses what is settled under an older token, whatever Redis lets through.
    """
    with suppress(Unavailable):
        context.reservations.fence({lane.lane: lane.token})
    return lane


def drained(
    context: Context,
    taken: Lane,
    *,
    timeout_s: float | None = None,
    tell: Tell = lambda _: None,
    pause: Pause = time.sleep,
) -> Lane:
    """The lane once its new holder may work; `tell` hears how it stands at every look.

    `pause` sleeps so long; what it raises ends the waiting. Raises Conflict when the time is over,
    LaneLost when the lane has another holder.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    found = taken
    while not found.drained:
        if deadline is not None and time.monotonic() >= deadline:
            raise Conflict(
                "lane",
                f"{found.lane} has not drained within {timeout_s:g} s:"
                f" {found.in_flight} tasks of the holder before are in flight",
                "give it more time with --timeout",
            )
        tell(found)
        pause(LOOK_S)
        with suppress(Unavailable):
            found = lanes.grant(context.engine, found.lane, found.token, context.now())
    return found


def given_back(context: Context, lane: str, token: int, *, force: bool = False) -> Lane:
    """Return a lane to cron, which begins when the holder's work has ended; `force`: at once, and
    that work is refused at its settlement.

    Raises LaneLost when it has another holder.
    """
    now = context.now()
    return announce(context, lanes.release(context.engine, lane, token, now, force=force))


class Holding:
    """A lane that this process has taken. A context manager: it renews the lease from a thread of
    its own while the block runs, and gives the lane back at its end unless that was done."""

    def __init__(self, context: Context, taken: Lane, *, lease_s: float) -> None:
        self.lane = taken.lane
        self.token = taken.token
        self._context = context
        self._lease_s = lease_s
        self._until = context.now() + timedelta(seconds=lease_s)
        self._lost: LaneLost | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep, name=f"lease-{self.lane}", daemon=True)
        announce(context, taken)

    def check(self) -> None:
        """Raises LaneLost once that is known. What matters is checked by PostgreSQL as well."""
        if self._lost is not None:
            raise self._lost

    def give_back(self, *, force: bool = False) -> Lane:
        """`given_back`, and no longer renewed."""
        self._end()
        return given_back(self._context, self.lane, self.token, force=force)

    def __enter__(self) -> Holding:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._over.is_set():
            # Lost, or out of reach: then the lease ends by itself.
            with suppress(LaneLost, Unavailable):
                self.give_back()

    def _end(self) -> None:
        self._over.set()
        self._thread.join()

    def _keep(self) -> None:
        pause_s = every_s = self._lease_s / RENEWALS
        while not self._over.wait(pause_s):
            now = self._context.now()
            until = now + timedelta(seconds=self._lease_s)
            try:
                lanes.renew(self._context.engine, self.lane, self.token, until, now)
                self._until, pause_s = until, every_s
            except LaneLost as error:
                self._lost = error
                return
            except Unavailable:
                pause_s = min(RETRY_S, every_s)
                if now >= self._until:
                    reason = f"the lease of token {self.token} could not be renewed in time"
                    self._lost = LaneLost(self.lane, reason)
                    return
