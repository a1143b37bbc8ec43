"""What Redis knew of each agent, kept so that a wiped Redis comes back with its judgement.

Written every few seconds by a cron job, read when a pool is missing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import Engine

from ledger.db import query, single, transaction
from ledger.model import Json


def save(engine: Engine, states: Mapping[str, Json], now: datetime) -> None:
    """Keep one state per agent, replacing the older one."""
    if not states:
        return
    with transaction(engine) as connection:
        query(
            connection,
            "put_snapshots",
            {
                "states": json.dumps(states),
                "now": now,
            },
        )


def load(engine: Engine) -> dict[str, Json]:
    """The last state kept of each agent."""
    with single(engine) as connection:
        rows = query(connection, "snapshots").fetchall()
    return {row.agent: row.state for row in rows}
