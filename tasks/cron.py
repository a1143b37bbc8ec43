"""`cron.fire` and `cron.reconcile`: what is due is recorded and run, once, in order, in its lane.

A message is a hint that a job may be due; when it is, the table and PostgreSQL's clock decide. Each
lane with something to do has threads of its own in this process, so that a job that takes long, or
hangs, holds up its own lane alone, and that until its limit. Row M01.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from contextvars import ContextVar
from functools import cache
from typing import Any, Final, NamedTuple

import structlog
from celery import Celery, current_app, shared_task

import beat_schedule
from ledger import cron, lanes
from ledger.cron import DOUBT_S, Run, Slot
from ledger.errors import BadInput, ClearlaneError
from scheduler.jobs import Job, plan, read_table
from tasks.context import Context, current
from tasks.patience import patient
from tasks.text import printable

FIRE: Final = "cron.fire"
REASON_MAX: Final = 200  # characters of an error
STOP_S: Final = 10.0  # for runs in progress when the process ends

log = structlog.get_logger()


_added: dict[str, Job] = {}


@cache
def table() -> dict[str, Job]:
    """The cron table by name: ours, and what the installation has added. Raises BadInput."""
    return read_table(beat_schedule.beat_schedule) | _added


def add_jobs(jobs: Mapping[str, Job]) -> None:
    """Make these the jobs that the installation has added. Raises BadInput for a name of ours."""
    for name in beat_schedule.beat_schedule:
        if name in jobs:
            place = f"beat_schedule.{name}"
            raise BadInput(place, "a job of Clearlane has this name", "choose another")
    _added.clear()
    _added.update(jobs)
    table.cache_clear()


class Turn(NamedTuple):
    """A job, and the run of it that goes on."""

    job: Job
    run: Run


_turn: ContextVar[Turn | None] = ContextVar("turn", default=None)


def turn() -> Turn | None:
    """What runs in this thread, for its task; None for a task that a message has called."""
    return _turn.get()


@shared_task(name=FIRE)
def fire(name: Any) -> None:
    """Something may be due in a job's lane."""
    job = table().get(name) if isinstance(name, str) else None
    if job is None:
        log.error("message refused", step=FIRE, reason=f"no such job: {printable(str(name), 64)}")
        return
    wake(current(), job.lane)


@shared_task(name="cron.reconcile")
def reconcile() -> None:
    """Look for what is due in every lane, whoever was told of it or not."""
    for lane in {job.lane for job in table().values()} - {lanes.SYSTEM}:
        wake(current(), lane)


@shared_task(name="cron.lanes")
def settle_lanes() -> None:
    """Lanes whose holder is gone return to cron; Redis learns who holds each."""
    _settle_lanes(current())


@patient
def _settle_lanes(context: Context) -> None:
    lanes.settle_down(context.engine, context.now())
    found = lanes.lanes(context.engine, context.now())
    context.reservations.fence({lane.lane: lane.token for lane in found})


@shared_task(name="cron.tidy")
def tidy() -> None:
    """Delete runs that are long over."""
    context, jobs = current(), table()
    often = [job.name for job in jobs.values() if job.often]
    cron.tidy(context.engine, jobs=jobs, often=often, now=context.now())


_looking: dict[str, bool] = {}  # lanes that a thread looks at; whether to look again
_threads: set[threading.Thread] = set()
_guard = threading.Lock()
_stopping = threading.Event()


def wake(context: Context, lane: str) -> None:
    """Have a lane looked at, in a thread; one that looks just now looks again."""
    app = current_app._get_current_object()
    with _guard:
        if lane in _looking:
            _looking[lane] = True
            return
        _looking[lane] = False
        made = threading.Thread(
            target=_work, args=(context, lane, app), name=f"cron-{lane}", daemon=True
        )
        _threads.add(made)
    try:
        made.start()
    except RuntimeError:  # no more threads: the next hint tries again
        with _guard:
            _threads.discard(made)
            del _looking[lane]
        raise


def _work(context: Context, lane: str, app: Celery) -> None:
    """Look until there is something to run, or nobody has asked to look again. While it runs,
    others look: slots are recorded, and a run that outlasts its limit holds nobody up."""
    try:
        while (found := _look(context, lane)) is not None:
            carry_out(context, app, *found)
            with _guard:
                if lane in _looking:
                    _looking[lane] = True
                    return
                _looking[lane] = False
    except Exception as error:
        log.error("cron lane not worked off", lane=lane, reason=str(error))
    finally:
        with _guard:
            _threads.discard(threading.current_thread())


def _look(context: Context, lane: str) -> tuple[Job, Run] | None:
    """A run that has begun; None if there is none. Either way the lane is free to be looked at."""
    while True:
        found = None
        try:
            if not _stopping.is_set():
                found = begin_next(context, lane)
        except Exception as error:
            log.error("cron lane not looked at", lane=lane, reason=str(error))
        with _guard:
            if found is not None or not _looking[lane] or _stopping.is_set():
                del _looking[lane]
                return found
            _looking[lane] = False


def finish_jobs() -> None:
    """Begin no more runs and wait a while for those in progress; the process ends."""
    _stopping.set()
    deadline = time.monotonic() + STOP_S
    for thread in list(_threads):
        thread.join(max(0.0, deadline - time.monotonic()))


@patient
def begin_next(context: Context, lane: str) -> tuple[Job, Run] | None:
    """Record what is due in a lane; begin the first run whose turn it is."""
    jobs = {job.name: job for job in table().values() if job.lane == lane}
    if not _recorded(context, lane, jobs):
        return None
    limits_s = {job.name: job.limit_s for job in jobs.values()}
    run = cron.start(context.engine, lane, limits_s, context.now())
    return None if run is None else (jobs[run.job], run)


def _recorded(context: Context, lane: str, jobs: dict[str, Job]) -> bool:
    """Record what is due; whether any run waits for its turn."""
    now = context.now()
    board = cron.board(context.engine, lane, list(jobs))
    schedules = {job.name: job.schedule.text for job in jobs.values()}
    if not board.exists or dict(board.schedules) != schedules:
        cron.know(context.engine, lane, schedules, now)
        board = cron.board(context.engine, lane, list(jobs))
    ahead = [name for name, at in board.seen.items() if (at - now).total_seconds() > DOUBT_S]
    if ahead:
        log.warning("slots of a clock that was ahead are forgotten", lane=lane, jobs=ahead)
        cron.set_back(context.engine, ahead, now)
        board = cron.board(context.engine, lane, list(jobs))
    slots: list[Slot] = []
    drops: dict[Run, str] = {}
    for job in jobs.values():
        found = plan(job, board.seen[job.name], board.waiting[job.name], now, board.held_by)
        slots += [
            Slot(job=job.name, slot=e.slot, state=e.state, reason=e.reason, slots=e.slots)
            for e in found.entries
        ]
        drops |= {Run(job.name, slot): reason for slot, reason in found.drops}
    if slots or drops:
        cron.record(context.engine, lane, slots, drops, now)
    return board.waits or any(slot.state == cron.RunState.FIRED for slot in slots)


def carry_out(context: Context, app: Celery, job: Job, run: Run) -> None:
    """Call the job's task here and now, and record how it ended."""
    task = app.tasks.get(job.task)
    if task is None:
        failed: str | None = f"no task is called {job.task}"
    else:
        told = {"job": job.name, "slot": run.slot.isoformat()}
        structlog.contextvars.bind_contextvars(**told)
        mark = _turn.set(Turn(job, run))
        # As Celery would, with its signals, which measure it; errors are logged there.
        result = task.apply(args=job.args, headers=told)
        failed = None if result.successful() else _words(result.result)
        _turn.reset(mark)
        structlog.contextvars.clear_contextvars()
    if failed is not None:
        log.error("cron job failed", job=job.name, slot=run.slot.isoformat(), reason=failed)
    if not _ended(context, run, failed):
        log.warning("cron job ended too late", job=job.name, slot=run.slot.isoformat())


@patient
def _ended(context: Context, run: Run, failed: str | None) -> bool:
    return cron.end(context.engine, run, failed=failed, now=context.now())


def _words(error: BaseException) -> str:
    if isinstance(error, ClearlaneError):  # which says itself what is wrong
        return printable(str(error), REASON_MAX)
    return printable(f"{type(error).__name__}: {error}", REASON_MAX)
