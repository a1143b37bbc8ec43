"""`cron.sweep` and `cron.snapshot`: what keeps the path moving when a message or a process is lost.

The sweeper looks only at attempts whose lease has ended. It resumes from the last state that is
on record, or gives the attempt up (architecture, What if; row M04).
"""

from __future__ import annotations

from collections.abc import Sequence

from celery import shared_task

from ledger import attempts, snapshots, subtasks
from ledger.db import instant
from ledger.model import AttemptKey, SagaState
from scheduler.saga import Saga
from scheduler.snapshot import encode_snapshot
from tasks.context import Context, current
from tasks.messages import ABORT, COMMIT, EXECUTE, VALIDATE, send
from tasks.patience import patient
from tasks.verdict import LOST

SWEEP_MAX = 1000  # attempts in one sweep: the next one takes the rest
EXPIRE_MAX = 1000  # tasks that end in one statement
EXPIRE_ROUNDS_MAX = 20  # in one sweep
RESUMES_MAX = 2  # tries to have the next step taken before the attempt counts as lost
# An answer is worth more: only an outage of minutes loses it.
ANSWERED_RESUMES_MAX = 30


@shared_task(name="cron.sweep")
def sweep() -> None:
    """Move on whatever lost its message, end what is over its time."""
    _sweep(current())


@patient
def _sweep(context: Context) -> None:
    now_ms = context.now_ms()
    keys = context.reservations.overdue(now_ms, SWEEP_MAX)
    if keys:
        # Time to act before the next sweep repeats it.
        until_ms = now_ms + int(context.lease_margin_s * 1000)
        _resume(context, keys, context.reservations.extend(keys, until_ms), until_ms)
    for _ in range(EXPIRE_ROUNDS_MAX):
        if attempts.expire(context.engine, limit=EXPIRE_MAX, now=context.now()) < EXPIRE_MAX:
            break
    subtasks.cancel_orphans(context.engine, limit=EXPIRE_MAX, now=context.now())


def _resume(
    context: Context, keys: Sequence[AttemptKey], extended: Sequence[int], until_ms: int
) -> None:
    """Send each attempt where its state says; give up those that nothing will move."""
    found = context.reservations.read(keys)
    sagas = {saga.work.key: saga for saga in found if saga is not None}
    dead = [
        sagas[key]
        for key, times in zip(keys, extended, strict=True)
        if key in sagas and _is_lost(sagas[key], times)
    ]
    given_up = context.reservations.give_up(dead, LOST) if dead else []
    lost = {saga.work.key for saga in dead}
    rest = [saga for key, saga in sagas.items() if key not in lost]
    # An agent has answered: the task must not be given away while the answer waits its turn. Its
    # claim outlasts this lease.
    attempts.renew(
        context.engine,
        [saga.work.key for saga in rest],
        instant(until_ms + int(context.lease_margin_s * 1000)),
    )
    send(EXECUTE, [s.work.key for s in rest if s.state is SagaState.RESERVED])
    send(VALIDATE, [s.work.key for s in rest if s.state is SagaState.EXECUTING])
    send(COMMIT, [s.work.key for s in rest if s.state is SagaState.SUCCEEDED])
    send(
        ABORT,
        [s.work.key for s in rest if s.state is SagaState.FAILED]
        + [s.work.key for s, mine in zip(dead, given_up, strict=True) if mine],
    )


def _is_lost(saga: Saga, times: int) -> bool:
    """Nobody answered the call, or nobody takes the next step: its time is over either way.

    A reply whose validator may have ended its worker is judged apart next time, which ends.
    """
    silent = saga.state is SagaState.EXECUTING and saga.reply is None
    most = RESUMES_MAX if saga.reply is None else ANSWERED_RESUMES_MAX
    return saga.verdict is None and (silent or (times > most and not saga.judging))


@shared_task(name="cron.snapshot")
def snapshot() -> None:
    """Keep what Redis knows of each agent, so that losing Redis loses no judgement."""
    _snapshot(current())


@patient
def _snapshot(context: Context) -> None:
    board, _ = context.reservations.look(list(context.registry().agents))
    states = {agent: encode_snapshot(*standing) for agent, standing in board.items()}
    snapshots.save(context.engine, states, context.now())
