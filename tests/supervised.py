"""A supervisor of small scripts, as a program: `python tests/supervised.py HOME < PLAN.json`.

The plan: {"policy": {…}, "stages": [[{"name", "code", …}]]}. A script with "ready" counts as ready
when that file exists.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

from workers import home as homes
from workers import leftovers
from workers.process import Process
from workers.restarts import RestartPolicy
from workers.supervisor import Addresses, Stage, Supervisor

ADDRESSES = Addresses(
    database_url="postgresql://u:secret@127.0.0.1:1/d",
    redis_url="redis://:secret@127.0.0.1:2/0",
    gateway_url="http://127.0.0.1:3",
    flower_url="http://127.0.0.1:4",
)


async def exists(path: str) -> str | None:
    return None if Path(path).exists() else "no file yet"


def process(entry: dict[str, Any]) -> Process:
    ready = entry.pop("ready", None)
    return Process(
        argv=(sys.executable, "-c", entry.pop("code")),
        env=os.environ,
        ready=partial(exists, ready) if ready else None,
        **{"settle_s": 0.05, **entry},
    )


def main() -> None:
    plan = json.load(sys.stdin)
    home = homes.prepare(Path(sys.argv[1]))
    with homes.locked(home):
        leftovers.reclaim(home)
        supervisor = Supervisor(
            home=home,
            stages=[Stage(processes=tuple(map(process, stage))) for stage in plan["stages"]],
            addresses=ADDRESSES,
            policy=RestartPolicy(**plan.get("policy", {})),
            report=lambda _: None,
        )
        asyncio.run(supervisor.run(lambda: None))


if __name__ == "__main__":
    main()
