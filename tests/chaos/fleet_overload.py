"""More work than the fleet can do: `python -m tests.chaos.fleet_overload` prints what is left of
the goodput at three times the load that the fleet can carry."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from ledger import intake
from ledger.intake import Submission
from tests.chaos.fleet_agents import Agent
from tests.chaos.fleet_load import CLIENT, FAMILY
from tests.chaos.stack import LANES, QUIET_S, Campaign, campaign
from tests.stack import await_true

WORK_S = 0.25
SLOTS = sum(slots for _, slots in LANES.values())
CAPACITY_PER_S = SLOTS / WORK_S  # what the agents could do if nothing else took time
EXPIRES_S = 3.0
PHASE_S = 11.0
TICK_S = 0.1


@dataclass(frozen=True, kw_only=True)
class Phase:
    """What became of the tasks offered in one phase.

    goodput_per_s: of the part of it in which tasks both come and run out of time, the same part
    whatever the load: before, a line builds up; afterwards, one is worked off.
    hurried: the share of calls that began in the last third of their task's time.
    """

    offered: int
    committed: int
    expired: int
    never_asked: int  # expired, and no agent was ever asked
    asked_in_vain: int  # calls for tasks that expired all the same
    asked: int
    hurried: float
    goodput_per_s: float


def offer(c: Campaign, per_s: float, seconds: float) -> Phase:
    """Submit at a rate that does not care how the stack fares; wait until all has ended."""
    tasks: list[str] = []
    start, start_s = time.monotonic(), time.time()
    while (elapsed_s := time.monotonic() - start) < seconds:
        due = int(per_s * elapsed_s) - len(tasks)
        if due:
            tasks += _submit(c, due)
        time.sleep(TICK_S)
    await_true("all has ended", lambda: not _unfinished(c), QUIET_S)
    rows = c.postgres.sql(
        "SELECT id::text, state, extract(epoch FROM expires_at)::float8,"
        " extract(epoch FROM ended_at)::float8 FROM task WHERE id = ANY(%s::uuid[])",
        [tasks],
    )
    expired = [task for task, state, _, _ in rows if state == "EXPIRED"]
    left_s = [
        expires_at - at for task, _, expires_at, _ in rows for at in c.agent.calls.get(task, ())
    ]
    since = min(EXPIRES_S, seconds / 2)
    settled = [
        task
        for task, state, _, ended_at in rows
        if state == "COMMITTED" and since <= ended_at - start_s < seconds
    ]
    return Phase(
        offered=len(tasks),
        committed=sum(state == "COMMITTED" for _, state, _, _ in rows),
        expired=len(expired),
        never_asked=sum(task not in c.agent.calls for task in expired),
        asked_in_vain=sum(len(c.agent.calls.get(task, ())) for task in expired),
        asked=len(left_s),
        hurried=sum(left < EXPIRES_S / 3 for left in left_s) / max(1, len(left_s)),
        goodput_per_s=len(settled) / (seconds - since),
    )


def _submit(c: Campaign, count: int) -> list[str]:
    now = datetime.now(UTC)
    expires_at = now + timedelta(seconds=EXPIRES_S)
    asked = [
        Submission(family=FAMILY, payload={"n": n}, expires_at=expires_at) for n in range(count)
    ]
    return [item.task for item in intake.submit(c.context.engine, CLIENT, asked, now)]


def _unfinished(c: Campaign) -> Any:
    return c.postgres.sql("SELECT 1 FROM task WHERE state = 'INIT' LIMIT 1")


def asked_late(c: Campaign) -> dict[str, float]:
    """Tasks that an agent was asked to do after they had expired: by how many seconds."""
    rows = c.postgres.sql(
        "SELECT id::text, extract(epoch FROM expires_at)::float8 FROM task"
        " WHERE expires_at IS NOT NULL"
    )
    return {
        task: max(c.agent.calls[task]) - expires_at
        for task, expires_at in rows
        if task in c.agent.calls and max(c.agent.calls[task]) > expires_at
    }


def main() -> None:
    agent = Agent(seed=1, work_s=WORK_S, fails=False)
    with campaign(seed=1, agent=agent) as c:
        offer(c, CAPACITY_PER_S / 4, 3.0)  # to warm up
        peak = max(
            (offer(c, CAPACITY_PER_S * share, PHASE_S) for share in (0.7, 0.85, 1.0)),
            key=lambda phase: phase.goodput_per_s,
        )
        over = offer(c, 3 * CAPACITY_PER_S, PHASE_S)
        late = asked_late(c)
        print(f"capacity of the agents {CAPACITY_PER_S:.0f}/s")
        print(f"peak {peak.goodput_per_s:.1f}/s: {peak}")
        print(f"3x   {over.goodput_per_s:.1f}/s: {over}")
        print(f"goodput at 3x: {over.goodput_per_s / peak.goodput_per_s:.1%} of the peak")
        print(
            f"asked after they had expired: {len(late)}, by {max(late.values(), default=0.0):.3f} s"
        )


if __name__ == "__main__":
    main()
