"""`cron.sweep` and `cron.snapshot`: what keeps the path moving when a message or a process is lost.

The sweeper looks only at attempts whose lease has ended. It resumes from the last state that is
on record, or gives the attempt up (architecture, What if; row M04).
"""

from __future__ import annotations

from collections.abc import Sequence

from celery import shared_task

from ledger import attempts, snapshots
from ledger.model import AttemptKey, SagaState, Verdict
from scheduler.saga import Saga
from scheduler.snapshot import encode_snapshot
from tasks.context import Context, current
from tasks.messages import ABORT, COMMIT, VALIDATE, send
from tasks.patience import patient

SWEEP_MAX = 1000  # attempts, and tasks, in one sweep: the next one takes the rest
LOST = Verdict(passed=False, reason="the worker that held this attempt is gone")


@shared_task(name="cron.sweep")
def sweep() -> None:
    """Move on whatever lost its message, end what is over its time."""
    _sweep(current())


@patient
def _sweep(context: Context) -> None:
    now_ms = context.now_ms()
    keys = context.reservations.overdue(now_ms, SWEEP_MAX)
    if keys:
        # A second chance to act before the next sweep repeats it.
        context.reservations.extend(keys, now_ms + int(context.lease_margin_s * 1000))
        _resume(context, keys)
    attempts.expire(context.engine, limit=SWEEP_MAX, now=context.now())


def _resume(context: Context, keys: Sequence[AttemptKey]) -> None:
    found = context.reservations.read(keys)
    gone = [key for key, saga in zip(keys, found, strict=True) if saga is None]
    sagas = [saga for saga in found if saga is not None]
    context.reservations.forget_leases(gone)
    lost = [saga for saga in sagas if _is_lost(saga)]
    given_up = context.reservations.give_up(lost, LOST)
    send(VALIDATE, [s.work.key for s in sagas if s.reply and not s.verdict])
    send(COMMIT, [s.work.key for s in sagas if s.state is SagaState.SUCCEEDED])
    send(
        ABORT,
        [s.work.key for s in sagas if s.state is SagaState.FAILED]
        + [s.work.key for s, mine in zip(lost, given_up, strict=True) if mine],
    )


def _is_lost(saga: Saga) -> bool:
    """Nobody answered, and whoever asked has had all the time there was."""
    return saga.reply is None and saga.verdict is None


@shared_task(name="cron.snapshot")
def snapshot() -> None:
    """Keep what Redis knows of each agent, so that losing Redis loses no judgement."""
    _snapshot(current())


@patient
def _snapshot(context: Context) -> None:
    board, _ = context.reservations.look(list(context.registry().agents))
    states = {agent: encode_snapshot(*standing) for agent, standing in board.items()}
    snapshots.save(context.engine, states, context.now())
