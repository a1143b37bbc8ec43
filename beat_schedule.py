"""The cron table: what beat sends, and how often. Data only.

Every job is safe to run twice, late, or not at all for a while.
"""

from __future__ import annotations

from typing import Any

beat_schedule: dict[str, dict[str, Any]] = {
    # Moves on whatever lost its message or its worker; looks only at leases that have ended.
    "sweep": {"task": "cron.sweep", "schedule": 2.0, "options": {"expires": 4.0}},
    # Keeps what Redis knows of each agent; a wiped Redis is at most this much behind.
    "snapshot": {"task": "cron.snapshot", "schedule": 10.0, "options": {"expires": 20.0}},
    # Lets nothing wait for an instant that only a clock ahead of PostgreSQL's can have written.
    "clock": {"task": "cron.clock", "schedule": 10.0, "options": {"expires": 20.0}},
}
