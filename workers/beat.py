"""Celery's beat on RedBeat, which outlives its server and its lock (row M01).

RedBeat ends beat when Redis is away for a moment, when it still loads its data, or when the lock is
gone because Redis was wiped or beat stood still. Nothing is gained by that: beat keeps nothing that
a fresh one would not have. So it waits, and takes its lock and its schedule again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import structlog
from redbeat.schedulers import RedBeatScheduler, acquire_distributed_beat_lock
from redis.exceptions import LockError

from scheduler.away import AWAY

WAIT_S = 1.0

log = structlog.get_logger()


class Scheduler(RedBeatScheduler):  # type: ignore[misc]  # it has no types
    """What `celery beat -S workers.beat:Scheduler` runs."""

    lock: Any = None
    waits = False

    def setup_schedule(self) -> None:
        """Store the cron table at the broker, once that answers."""
        while True:
            try:
                super().setup_schedule()
            except AWAY as error:
                self._wait(error)
                time.sleep(WAIT_S)
            else:
                return

    def tick(self, min: Callable[..., Any] = min, **kwargs: Any) -> float:
        """Send what is due; the seconds until the next look."""
        try:
            if self.lock is None:
                self._take()
            pause_s = float(super().tick(min, **kwargs))
        except LockError as error:
            # Another one may have it, with a schedule that is as good as ours.
            log.warning("beat has lost its lock", reason=str(error))
            self.lock = None
        except AWAY as error:
            self._wait(error)
        else:
            self.waits = False
            return pause_s
        return WAIT_S

    def close(self) -> None:
        """End; a lock that cannot be given back ends by itself."""
        try:
            super().close()
        except (LockError, *AWAY) as error:
            log.warning("the lock of beat was not released", reason=str(error))

    def _wait(self, error: Exception) -> None:
        """Said once: an outage may fill the disk, or have filled it."""
        if not self.waits:
            log.warning("beat waits", reason=str(error))
        self.waits = True

    def _take(self) -> None:
        """Wait until the lock is free; what was lost with it is stored again."""
        acquire_distributed_beat_lock(sender=SimpleNamespace(scheduler=self))
        self.setup_schedule()
