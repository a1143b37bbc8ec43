"""A batch from beginning to end: its row, its lane, its run, and what became of it. Row M03."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from ledger import batches, intake, lanes
from ledger.batches import Batch, BatchEnd, Kept
from ledger.errors import BadInput, Conflict, LaneLost, Unavailable
from ledger.intake import Accepted
from ledger.lanes import GRACE_S, Ask, Lane
from tasks.context import Context
from workers.batchfile import Items, Options, options_of, read_bytes, read_items, sha256_of
from workers.batchrun import Progress, Run, Stopped, Tell
from workers.holding import Holding, drained
from workers.interrupts import Interrupts

LEASE_S: Final = 30.0
LOOK_S: Final = 0.5  # between two looks at a lease that may end

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """Who runs a batch, for whom, where, how. timeout_s: for the lane to drain."""

    client: str
    lane: str
    principal: str
    reason: str
    options: Options
    timeout_s: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """How a run ended: `state` done, stopped or lost. `before`: items that had ended before it.

    batch: None when there was nothing to do. lost: why the lane is somebody else's.
    """

    batch: int | None
    client: str
    state: str
    items: int
    done: int
    failed: int
    before: int
    spent_ub: int
    elapsed_s: float
    lost: LaneLost | None = None

    @property
    def left(self) -> int:
        """Items that have not ended."""
        return self.items - self.done - self.failed


def started(context: Context, job: Job, items: Items, tell: Tell) -> Report:
    """Run a new batch, unless all of its items have ended already.

    Raises Conflict when the lane is held, or does not drain in time.
    """
    if len(items.settled) == len(items.items):
        return _nothing(job, items, None)
    wanted = Batch(
        lane=job.lane,
        client=job.client,
        principal=job.principal,
        reason=job.reason,
        file=str(items.path),
        file_sha256=items.sha256,
        options=asdict(job.options),
        items=len(items.items),
    )
    with Interrupts() as interrupts:
        number, taken = batches.begin(context.engine, wanted, LEASE_S, context.now())
        return _held(
            context, job, items, number=number, taken=taken, interrupts=interrupts, tell=tell
        )


def again(context: Context, job: Job, number: int, items: Items, *, tell: Tell, say: Say) -> Report:
    """Run what is left of a batch.

    Raises Conflict when the lane is held, be it by this batch's own command.
    """
    if len(items.settled) == len(items.items):
        return _nothing(job, items, number)
    ask = Ask(principal=job.principal, reason=job.reason, serves=number, lease_s=LEASE_S)
    taken = _taken_again(context, number, ask, str(items.path), say)
    with Interrupts() as interrupts:
        return _held(
            context, job, items, number=number, taken=taken, interrupts=interrupts, tell=tell
        )


def same_items(context: Context, kept: Kept, moved: Path | None) -> Items:
    """The items of a batch, from its file. Raises BadInput unless that is as it was."""
    path = moved or Path(kept.file)
    try:
        data = read_bytes(path)
    except BadInput as error:
        remedy = "put it back, or say with --file where it is now"
        raise BadInput(str(path), error.reason, remedy) from None
    if sha256_of(data) != kept.file_sha256:
        raise BadInput(
            str(path),
            f"it is not as it was when batch {kept.id} began",
            "restore it, or run it as it is now with `clearlane batch run`",
        )
    options = options_of(kept.options)
    return read_items(context, path, data, client=kept.client, lane=kept.lane, options=options)


def _taken_again(context: Context, number: int, ask: Ask, file: str, say: Say) -> Lane:
    """The lane for a batch again. The lease of a command that died is waited for; a living one
    renews it, and is in the way."""
    first: datetime | None = None
    while True:
        try:
            return batches.again(context.engine, number, ask, file, context.now())
        except Conflict:
            kept = batches.batch(context.engine, number)
            found = lanes.lane(context.engine, kept.lane, context.now())
            if found.serves != number or found.until is None:
                if found.mode is lanes.Mode.CRON:
                    continue  # given back in between
                raise
            if first is None:
                first = found.until
                ends = first + timedelta(seconds=GRACE_S)
                say(
                    f"{found.principal} may still run batch {number}; if not, its lease ends at"
                    f" {ends:%H:%M:%S} UTC: waiting for it"
                )
            elif found.until > first:
                raise
            time.sleep(LOOK_S)


def _held(
    context: Context,
    job: Job,
    items: Items,
    *,
    number: int,
    taken: Lane,
    interrupts: Interrupts,
    tell: Tell,
) -> Report:
    """Run a batch whose lane was taken, and say in its row how it ended."""
    ended = BatchEnd.STOPPED
    try:
        with Holding(context, taken, lease_s=LEASE_S) as hold:
            _drain(context, taken, job.timeout_s, interrupts)
            run = Run(
                context,
                hold=hold,
                number=number,
                client=job.client,
                items=items.items,
                before=_known(context, job.client, items),
                interrupts=interrupts,
                tell=tell,
            )
            try:
                ended, seen, lost = _followed(run, job.options.rate_per_s)
            except LaneLost as error:
                ended, seen, lost = BatchEnd.LOST, run.seen, error
        return _report(job, items, number, ended, seen=seen, lost=lost)
    except LaneLost:
        ended = BatchEnd.LOST
        raise
    finally:
        with suppress(Unavailable):
            batches.end(context.engine, number, taken.token, ended, context.now())


def _followed(run: Run, rate_per_s: float | None) -> tuple[BatchEnd, Progress | None, None]:
    try:
        run.submit(rate_per_s)
        return BatchEnd.DONE, run.follow(), None
    except Stopped:
        return BatchEnd.STOPPED, run.stop(), None


def _drain(context: Context, taken: Lane, timeout_s: float | None, interrupts: Interrupts) -> None:
    def pause(seconds: float) -> None:
        interrupts.wait(seconds)
        if interrupts.count:
            raise KeyboardInterrupt

    drained(context, taken, timeout_s=timeout_s, pause=pause)


def _known(context: Context, client: str, items: Items) -> list[Accepted]:
    """What is known of the items once nothing of the lane is in flight."""
    found = intake.known(context.engine, client, items.items)
    return [item for item in found.values() if isinstance(item, Accepted)]


def _nothing(job: Job, items: Items, number: int | None) -> Report:
    done = sum(item.state == "COMMITTED" for item in items.settled)
    return Report(
        batch=number,
        client=job.client,
        state="done",
        items=len(items.items),
        done=done,
        failed=len(items.settled) - done,
        before=len(items.settled),
        spent_ub=0,
        elapsed_s=0.0,
    )


def _report(
    job: Job,
    items: Items,
    number: int,
    ended: BatchEnd,
    *,
    seen: Progress | None,
    lost: LaneLost | None,
) -> Report:
    return Report(
        batch=number,
        client=job.client,
        state=str(ended),
        items=len(items.items),
        done=seen.done if seen else 0,
        failed=seen.failed if seen else 0,
        before=seen.before if seen else 0,
        spent_ub=seen.spent_ub if seen else 0,
        elapsed_s=seen.elapsed_s if seen else 0.0,
        lost=lost,
    )
