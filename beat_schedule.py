"""The cron table. Data only.

Each entry: `task` a Celery task, `schedule` seconds or a crontab in UTC, `lane` what it uses,
`misfire` what becomes of slots that could not start in time (skip, coalesce, catch_up + `bound`),
`expires_s` how late a run may start, `limit_s` how long it may take, `args`. Every job is safe to
run twice, late, or not at all for a while.
"""

from __future__ import annotations

from typing import Any

beat_schedule: dict[str, dict[str, Any]] = {
    # Moves on whatever lost its message or its worker; looks only at leases that have ended.
    "sweep": {
        "task": "cron.sweep",
        "schedule": 2.0,
        "lane": "system",
        "misfire": "coalesce",
        "limit_s": 10.0,
    },
    # Gives lanes back whose holder is gone; tells Redis who holds each.
    "lanes": {
        "task": "cron.lanes",
        "schedule": 2.0,
        "lane": "system",
        "misfire": "coalesce",
        "limit_s": 10.0,
    },
    # Looks for slots that nobody was told of, in every lane.
    "reconcile": {
        "task": "cron.reconcile",
        "schedule": 2.0,
        "lane": "system",
        "misfire": "coalesce",
        "limit_s": 10.0,
    },
    # Signs the log when it has grown, and shows it to its witnesses.
    "checkpoint": {
        "task": "cron.checkpoint",
        "schedule": 2.0,
        "lane": "system",
        "misfire": "coalesce",
        "limit_s": 10.0,
    },
    # Keeps what Redis knows of each agent; a wiped Redis is at most this much behind.
    "snapshot": {
        "task": "cron.snapshot",
        "schedule": 10.0,
        "lane": "system",
        "misfire": "coalesce",
        "limit_s": 30.0,
    },
    # Lets nothing wait for an instant that only a clock ahead of PostgreSQL's can have written.
    "clock": {
        "task": "cron.clock",
        "schedule": 10.0,
        "lane": "system",
        "misfire": "coalesce",
        "limit_s": 30.0,
    },
    # Closes an epoch that is over: clears the accounts. Its limit is for a million of them.
    "close_epoch": {
        "task": "cron.close_epoch",
        "schedule": 5.0,
        "lane": "system",
        "misfire": "coalesce",
        "limit_s": 300.0,
    },
    # Deletes runs that are long over.
    "tidy": {
        "task": "cron.tidy",
        "schedule": "* * * * *",
        "lane": "system",
        "misfire": "skip",
        "limit_s": 30.0,
    },
}
