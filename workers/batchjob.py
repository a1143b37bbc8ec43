"""A batch from beginning to end: its row, its lane, its run, and what became of it. Row M03."""

from __future__ import annotations

import time
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
from workers.batchrun import Progress, Run, Stopped, Voice
from workers.holding import Holding, drained
from workers.interrupts import Interrupts

LEASE_S: Final = 30.0
LOOK_S: Final = 0.5  # between two looks at a lease that may end


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


def started(context: Context, job: Job, items: Items, voice: Voice) -> Report:
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
            context, job, items, number=number, taken=taken, interrupts=interrupts, voice=voice
        )


def again(context: Context, job: Job, number: int, items: Items, voice: Voice) -> Report:
    """Run what is left of a batch.

    Raises Conflict when the lane is held, be it by this batch's own command.
    """
    if len(items.settled) == len(items.items):
        # Perhaps its command died before it could say so.
        batches.end(context.engine, number, batches.NOBODY, BatchEnd.DONE, context.now())
        return _nothing(job, items, number)
    ask = Ask(principal=job.principal, reason=job.reason, serves=number, lease_s=LEASE_S)
    taken = _taken_again(context, number, ask, str(items.path), voice)
    with Interrupts() as interrupts:
        return _held(
            context, job, items, number=number, taken=taken, interrupts=interrupts, voice=voice
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


def _taken_again(context: Context, number: int, ask: Ask, file: str, voice: Voice) -> Lane:
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
                voice.say(
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
    voice: Voice,
) -> Report:
    """Run a batch whose lane was taken, and say in its row how it ended."""
    ended = BatchEnd.STOPPED
    try:
        with Holding(context, taken, lease_s=LEASE_S) as hold:
            _drain(context, taken, job.timeout_s, number=number, interrupts=interrupts, voice=voice)
            run = Run(
                context,
                hold=hold,
                number=number,
                client=job.client,
                items=items.items,
                before=_known(context, job.client, items),
                interrupts=interrupts,
                voice=voice,
            )
            ended, lost = _followed(run, job.options.rate_per_s)
        return _report(job, items, number, ended, seen=run.seen, lost=lost)
    except LaneLost:
        ended = BatchEnd.LOST
        raise
    finally:
        with suppress(Unavailable):
            batches.end(context.engine, number, taken.token, ended, context.now())


def _followed(run: Run, rate_per_s: float | None) -> tuple[BatchEnd, LaneLost | None]:
    """How it ended, and what took its lane."""
    try:
        try:
            run.submit(rate_per_s)
            run.follow()
            return BatchEnd.DONE, None
        except Stopped:
            run.stop()
            return BatchEnd.STOPPED, None
    except LaneLost as error:
        return BatchEnd.LOST, error


def _drain(
    context: Context,
    taken: Lane,
    timeout_s: float | None,
    *,
    number: int,
    interrupts: Interrupts,
    voice: Voice,
) -> None:
    """Wait until the batch may begin. Raises Conflict when the time is over, KeyboardInterrupt."""

    def pause(seconds: float) -> None:
        interrupts.wait(seconds)
        if interrupts.count:
            raise KeyboardInterrupt

    try:
        drained(context, taken, timeout_s=timeout_s, tell=voice.draining, pause=pause)
    except (Conflict, KeyboardInterrupt):
        voice.say(
            f"lane {taken.lane} was given back before batch {number} did anything;"
            f" `clearlane batch resume {number}` tries again"
        )
        raise


def _known(context: Context, client: str, items: Items) -> dict[str, Accepted]:
    """What is known of the items, by key, once nothing of the lane is in flight."""
    found = intake.known(context.engine, client, items.items)
    return {key: item for key, item in found.items() if isinstance(item, Accepted)}


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
