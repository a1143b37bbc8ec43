"""`saga.abort`: record a failed attempt, then undo its reservation.

FAILED to ABORTED, and the task back to INIT or into quarantine (paper section 6.3; row M04). The
record comes first: released but unrecorded, an attempt would simply be gone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from celery import shared_task

from ledger import attempts
from ledger.model import AttemptKey, Failure, Outcome, SagaState
from scheduler.saga import Saga
from tasks.context import Context, current
from tasks.messages import ABORT, received
from tasks.patience import patient
from tasks.verdict import LOST


@shared_task(name=ABORT)
def abort(message: Any) -> None:
    """Compensate a chunk of failed attempts."""
    _abort(current(), received(ABORT, message))


@patient
def _abort(context: Context, keys: Sequence[AttemptKey]) -> None:
    sagas = [
        saga
        for saga in (context.reservations.read(keys) if keys else [])
        if saga is not None and saga.state is SagaState.FAILED
    ]
    if not sagas:
        return
    attempts.abort(context.engine, [failure(saga) for saga in sagas], context.now())
    context.reservations.release(sagas, settled=False)


def failure(saga: Saga) -> Failure:
    """What the ledger keeps of a failed attempt. Without a reply it was lost, and blames no one."""
    verdict = saga.verdict
    # A reply that nobody survived judging says nothing about who gave it.
    reply = None if verdict == LOST else saga.reply
    return Failure(
        key=saga.work.key,
        agent=saga.agent if reply else None,
        cost_ub=saga.cost_ub,
        outcome=reply.outcome if reply else Outcome.LOST if saga.began else Outcome.UNSTARTED,
        reason=verdict.reason if verdict else "",
        latency_s=reply.latency_s if reply else 0.0,
        penalty=saga.penalty if reply else None,
    )
