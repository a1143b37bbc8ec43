"""Why a task of a lane waits for the lane's holder, in words. Row M02."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ledger import batches, lanes
from ledger.errors import NotFound
from ledger.lanes import Lane, Mode
from tasks.context import Context


def held_up(context: Context, task: Mapping[str, Any]) -> str | None:
    """What in its lane keeps `task` from being claimed; None: nothing does."""
    lane = lanes.lane(context.engine, task["lane"], context.now())
    if lane.serves != task["batch"]:
        if task["batch"]:
            return _batch(context, task["batch"], lane)
        return _holder(lane)
    if not lane.drained:
        return f"lane {lane.lane} {_drains(lane)}"
    if lane.until is not None and lane.until <= context.now():
        return (
            f"the lease of {lane.principal}, who held lane {lane.lane} for it, has ended;"
            " it waits until its batch goes on"
        )
    return None


def _holder(lane: Lane) -> str:
    why = f" ({lane.reason})" if lane.reason else ""
    since = f"since {lane.since:%H:%M:%S}{why}"
    if lane.mode is Mode.PAUSED:
        return (
            f"lane {lane.lane} is paused by {lane.principal} {since}; it goes on after"
            f" `clearlane lanes release {lane.lane}`"
        )
    waits = "" if lane.drained else f", and {_drains(lane)}"
    return (
        f"lane {lane.lane} is held by {lane.principal} {since}{waits};"
        " it goes on when the lane returns to cron"
    )


def _batch(context: Context, number: int, lane: Lane) -> str:
    """A batch's task whose lane is somebody else's."""
    try:
        state = batches.batch(context.engine, number).state
    except NotFound:
        state = "unknown"
    said = (
        f"it belongs to batch {number}, which is not running ({state});"
        f" `clearlane batch resume {number}`, or running its file again, goes on with it"
    )
    return said if lane.mode is Mode.CRON else f"{said}; {_holder(lane)}"


def _drains(lane: Lane) -> str:
    one = lane.in_flight == 1
    tasks = "1 task" if one else f"{lane.in_flight} tasks"
    return f"drains: {tasks} of the holder before {'is' if one else 'are'} in flight"
