"""`clearlane cron`: what runs by itself, when it runs next, what became of it, running it now."""

from __future__ import annotations

import heapq
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import click

from ledger.errors import Conflict, NotFound
from workers.cli import FAILED, REFUSED, output
from workers.cli.lanes import as_option
from workers.cli.session import json_option, with_context

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ledger.cron import Run
    from scheduler.jobs import Job
    from tasks.context import Context

LIST = (
    "job", "lane", "schedule", "misfire", "next_slot", "last_slot", "last_state", "took_s",
    "reason",
)  # fmt: skip
NEXT = ("slot", "job", "lane")
HISTORY = (
    "slot", "state", "principal", "slots", "reason", "fired_at", "began_at", "ended_at", "took_s",
)  # fmt: skip
LEASE_S: Final = 30.0  # of a lane that is held for one run
LOOK_S: Final = 0.1  # between two looks at a run
WAIT_MAX_S: Final = 86_400


@click.group()
def cron() -> None:
    """See the cron table and what became of its slots; run a job now."""


@cron.command("list")
@json_option
@with_context
def list_jobs(context: Context, as_json: bool) -> None:
    """Every job: its lane, schedule and policy, its next slot and how its last run ended."""
    from ledger.cron import last_runs
    from scheduler.slots import coming

    now, last = context.now(), last_runs(context.engine)
    rows = []
    for job in _table().values():
        run = last.get(job.name, {})
        rows.append(
            _job_row(job)
            | {
                "next_slot": next(iter(coming(job.schedule, now, 1)), None),
                "last_slot": run.get("slot"),
                "last_state": run.get("state"),
                "took_s": run.get("took_s"),
                "reason": run.get("reason") or None,
            }
        )
    if as_json:
        output.document(rows)
    else:
        output.table(LIST, rows)


@cron.command("next")
@click.argument("job", required=False)
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True)
@json_option
@with_context
def next_slots(context: Context, job: str | None, limit: int, as_json: bool) -> None:
    """The coming slots, of one job or of all, the earliest first."""
    from scheduler.slots import coming

    now = context.now()
    jobs = _table().values() if job is None else [_known(job)]
    each = ([(slot, item) for slot in coming(item.schedule, now, limit)] for item in jobs)
    first = heapq.nsmallest(
        limit, (pair for pairs in each for pair in pairs), key=lambda pair: (pair[0], pair[1].name)
    )
    rows = [{"slot": slot, "job": item.name, "lane": item.lane} for slot, item in first]
    if as_json:
        output.document(rows)
    else:
        output.table(NEXT, rows)


@cron.command()
@click.argument("job")
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True)
@json_option
@with_context
def history(context: Context, job: str, limit: int, as_json: bool) -> None:
    """What became of each slot of a job, newest first."""
    from ledger.cron import history as runs

    rows = [_run_row(row) for row in runs(context.engine, job, limit=limit)]
    if not rows:
        _known(job)
    if as_json:
        output.document(rows)
    else:
        output.table(HISTORY, rows)


@cron.command()
@click.argument("job")
@click.option("--lane-lock", is_flag=True, help="Hold its lane while it runs: nothing else does.")
@click.option(
    "--timeout", type=click.IntRange(0, WAIT_MAX_S), help="Seconds to wait for its end, in all."
)
@as_option
@json_option
@with_context
def run(  # noqa: PLR0917 - click names them all
    context: Context,
    job: str,
    lane_lock: bool,
    timeout: int | None,
    name: str | None,
    as_json: bool,
) -> None:
    """Run a job now, besides its slots, and wait until it has ended.

    It takes its turn in its lane, as any other run; a lane that somebody holds is refused. With
    --lane-lock you hold the lane meanwhile: whatever is in flight there ends first, and nothing
    else begins until it is over.
    """
    from workers.principal import principal

    found, who = _known(job), principal(name)
    deadline = None if timeout is None else time.monotonic() + timeout
    with _allowed(context, found, who, deadline, lane_lock=lane_lock) as fence:
        row = _awaited(context, found, who, fence, deadline)
    if as_json:
        output.document(_run_row(row))
    else:
        took = "" if row["took_s"] is None else f" in {row['took_s']:.3f} s"
        why = f": {row['reason']}" if row["reason"] else ""
        click.echo(f"{job} is {row['state']}{took}{why}")
    if row["state"] != "done":
        raise click.exceptions.Exit(FAILED if row["state"] == "failed" else REFUSED)


@contextmanager
def _allowed(
    context: Context, job: Job, who: str, deadline: float | None, *, lane_lock: bool
) -> Iterator[int]:
    """The token to run under: 0, or that of the lane as long as the block holds it."""
    from ledger import cron as ledger
    from ledger import lanes
    from ledger.lanes import Ask, Mode
    from workers.cli.progress import Draining
    from workers.holding import Holding, drained

    now = context.now()
    if job.name not in ledger.known(context.engine):
        ledger.know(context.engine, job.lane, {job.name: job.schedule.text}, now)
    if not lane_lock:
        found = lanes.lane(context.engine, job.lane, now)
        if found.mode is not Mode.CRON:
            raise Conflict(
                "lane",
                f"{job.lane} is held by {found.principal} since"
                f" {found.since:%Y-%m-%d %H:%M:%S} UTC",
                f"wait for its release, or ask {found.principal} for it",
            )
        yield 0
        return
    ask = Ask(principal=who, reason=f"cron run {job.name}", lease_s=LEASE_S)
    taken = lanes.take(context.engine, job.lane, ask, now)
    with Holding(context, taken, lease_s=LEASE_S):
        drained(context, taken, timeout_s=_left(deadline), tell=Draining())
        yield taken.token


def _awaited(
    context: Context, job: Job, who: str, fence: int, deadline: float | None
) -> dict[str, Any]:
    """Ask for a run and wait for its end; withdrawn when it has not begun by the deadline."""
    from ledger import cron as ledger

    asked = ledger.ask(context.engine, job.name, job.lane, who, context.now(), fence=fence)
    try:
        while (row := _row(context, asked))["ended_at"] is None:
            if deadline is not None and time.monotonic() >= deadline:
                raise Conflict(
                    "run",
                    f"{job.name} has not {'ended' if row['began_at'] else 'begun'} in time",
                    f"give it more time with --timeout, or see `clearlane cron history {job.name}`",
                )
            time.sleep(LOOK_S)
    except BaseException:
        ledger.withdraw(context.engine, asked, "nobody waited for it any more", context.now())
        raise
    return row


def _row(context: Context, asked: Run) -> dict[str, Any]:
    from ledger import cron as ledger

    row = ledger.run_row(context.engine, asked)
    if row is None:
        raise NotFound("run", f"{asked.job} at {asked.slot} is gone", "ask again")
    return row


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def _table() -> dict[str, Job]:
    from workers.jobfile import cron_table
    from workers.settings import load_settings

    return cron_table(load_settings())


def _known(name: str) -> Job:
    found = _table().get(name)
    if found is None:
        raise NotFound("job", f"{name!r} is not known", "see `clearlane cron list`")
    return found


def _job_row(job: Job) -> dict[str, Any]:
    return {
        "job": job.name,
        "lane": job.lane,
        "task": job.task,
        "schedule": job.schedule.text,
        "misfire": f"{job.misfire} {job.bound}" if job.misfire == "catch_up" else job.misfire,
        "expires_s": job.expires_s,
        "limit_s": job.limit_s,
    }


def _run_row(row: dict[str, Any]) -> dict[str, Any]:
    """A run, as programs get it; `took_s` is a number of seconds."""
    took_s = row["took_s"]
    return row | {"took_s": None if took_s is None else float(took_s)}
