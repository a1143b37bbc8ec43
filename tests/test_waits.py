"""Why a task waits, when the reason is who holds its lane. Row M02."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from ledger import batches, intake, lanes
from ledger.batches import Batch, BatchEnd
from ledger.db import instant
from ledger.intake import Submission, Tenure
from ledger.lanes import Ask
from scheduler.reservations import GAP_MS
from tasks.context import Context
from tests import makers
from workers.waits import explain

HOUR_S = 3600.0


@pytest.fixture(autouse=True)
def installed(context: Context, now: datetime) -> None:
    makers.install(context.engine, now)


def alice(**values: Any) -> Ask:
    return Ask(**{"principal": "alice", "reason": "mint", "lease_s": HOUR_S, **values})


def why(context: Context, task: str) -> str:
    return explain(context, intake.task_row(context.engine, task)).words


def begun(context: Context, now: datetime) -> tuple[int, lanes.Lane, str]:
    """A batch of one task, its lane, and the task."""
    wanted = Batch(
        lane="default",
        client="R",
        principal="alice",
        reason="mint",
        file="/items.jsonl",
        file_sha256=b"",
        options={},
        items=1,
    )
    number, lane = batches.begin(context.engine, wanted, HOUR_S, now)
    tenure = Tenure(lane="default", token=lane.token, batch=number)
    item = Submission(family="f", payload=1, idempotency_key="k")
    (task,) = intake.submit(context.engine, "R", [item], now, tenure)
    return number, lane, task.task


def test_a_lane_that_somebody_holds(context: Context, now: datetime) -> None:
    (task,) = makers.submit(context.engine, now)
    assert why(context, task).startswith("it is ready; ")
    taken = lanes.take(context.engine, "default", alice(), now)
    assert why(context, task) == (
        f"lane default is held by alice since {now:%H:%M:%S} (mint);"
        " it goes on when the lane returns to cron"
    )
    lanes.release(context.engine, "default", taken.token, now)
    assert why(context, task).startswith("it is ready; ")


def test_a_lane_that_is_paused(context: Context, now: datetime) -> None:
    (task,) = makers.submit(context.engine, now)
    lanes.pause(context.engine, "default", alice(), now)
    assert "lane default is paused by alice since" in why(context, task)
    assert "`clearlane lanes release default`" in why(context, task)


def test_a_lane_that_drains(context: Context, now: datetime) -> None:
    makers.submit(context.engine, now)
    makers.claim(context.engine, now, margin_s=HOUR_S)
    (task,) = makers.submit(context.engine, now)
    taken = lanes.take(context.engine, "default", alice(), now)
    assert "drains: 1 task of the holder before" in why(context, task)
    lanes.release(context.engine, "default", taken.token, now)
    said = "lane default drains: 1 task of the holder before is in flight"
    assert why(context, task) == said


def test_a_batch_that_does_not_run(context: Context, now: datetime) -> None:
    number, lane, task = begun(context, now)
    assert why(context, task).startswith("it is ready; ")
    batches.end(context.engine, number, lane.token, BatchEnd.STOPPED, now)
    back = lanes.release(context.engine, "default", lane.token, now)
    words = why(context, task)
    assert f"it belongs to batch {number}, which is not running (stopped)" in words
    assert f"`clearlane batch resume {number}`" in words
    lanes.take(context.engine, "default", alice(principal="bob"), now)
    assert "lane default is held by bob" in why(context, task)
    assert back.token == lane.token + 1


def test_a_fleet_that_cools_down(context: Context, now: datetime) -> None:
    """Agents of other lanes, ready as they are, are none of its."""
    fleet = [makers.agent(f"A{n}", cooldown_s=7200.0) for n in range(32)]
    others = [makers.agent("A", lane="mint"), makers.agent("M", lane="mint")]
    makers.install(context.engine, now, agents=[*fleet, *others])
    now_ms = context.now_ms()
    context.reservations.seed([*fleet, *others], {}, now_ms)
    (task,) = makers.submit(context.engine, now)
    last = {item.id: 3_600_000 + n for n, item in enumerate(fleet[1:])}
    context.reservations.rest(last, now_ms)
    assert why(context, task).startswith("it is ready; ")
    opens_ms = now_ms + 60_000
    context.reservations.rest({"A0": 60_000}, now_ms)
    words = f"waiting: all 32 agents cooling down, next at {instant(opens_ms):%H:%M:%S}Z"
    assert why(context, task) == words
    lanes.take(context.engine, "default", alice(), now)
    assert why(context, task).startswith("lane default is held by alice since")


def test_one_agent_that_cools_down(context: Context, now: datetime) -> None:
    (task,) = makers.submit(context.engine, now)
    now_ms = context.now_ms()
    opens_ms = now_ms + 60_000
    context.reservations.seed([makers.agent()], {}, opens_ms)
    context.reservations.rest({"A": 60_000}, now_ms)
    words = f"waiting: agent A cooling down, next at {instant(opens_ms):%H:%M:%S}Z"
    assert why(context, task) == words


def test_a_lane_that_goes_slowly(context: Context, now: datetime) -> None:
    makers.install(context.engine, now, agents=[makers.agent("M", lane="mint")])
    (task,) = makers.submit(context.engine, now, lane="mint")
    now_ms = context.now_ms()
    context.reservations.slow(["mint"], now_ms)
    words = "waiting: lane mint goes slowly after a 429, next start at {}Z"
    assert why(context, task) == words.format(f"{instant(now_ms + GAP_MS):%H:%M:%S}")
