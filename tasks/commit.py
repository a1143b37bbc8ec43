"""`saga.commit`: settle a chunk, then let go of what it held.

SUCCEEDED to COMMITTED (paper sections 6.2 and 6.3; rows M04, M05, M06). The ledger decides by
(task, attempt); a lost reply, a second message or a late one settles nothing twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import structlog
from celery import shared_task

from ledger import attempts
from ledger.attempts import Waiting
from ledger.errors import NotStorable
from ledger.model import AttemptKey, Outcome, SagaState, Settlement, Wait
from ledger.postings import Settled
from ledger.settle import settle
from scheduler.router import CREDIT_MS
from scheduler.saga import Saga
from tasks.abort import failure
from tasks.context import Context, current
from tasks.messages import COMMIT, received
from tasks.patience import patient

UNPAID = {Settled.NO_CREDIT: Wait.CREDIT, Settled.NO_BUDGET: Wait.BUDGET}

log = structlog.get_logger()


@shared_task(name=COMMIT)
def commit(message: Any) -> None:
    """Pay for a chunk of validated attempts and release them."""
    _commit(current(), received(COMMIT, message))


# Safe around money because the ledger settles a (task, attempt) at most once, whoever asks again.
@patient
def _commit(context: Context, keys: Sequence[AttemptKey]) -> None:
    sagas = [
        saga
        for saga in (context.reservations.read(keys) if keys else [])
        if saga is not None and saga.state is SagaState.SUCCEEDED
    ]
    if not sagas:
        return
    outcomes = _settle(context, sagas)
    _let_wait(context, outcomes)
    _refuse(context, [saga for saga in sagas if outcomes[saga.work.key] is Settled.FENCED])
    moved = (Settled.PAID, Settled.ALREADY)
    for settled in (True, False):
        ended = [saga for saga in sagas if (outcomes[saga.work.key] in moved) is settled]
        if ended:
            context.reservations.release(ended, settled=settled)


def _settle(context: Context, sagas: Sequence[Saga]) -> dict[AttemptKey, Settled]:
    """Settle together; if one of them cannot be kept, in halves, until it is alone and fails."""
    try:
        return dict(
            settle(
                context.engine,
                [settlement(saga) for saga in sagas],
                now=context.now(),
            )
        )
    except NotStorable as error:
        if len(sagas) > 1:
            middle = len(sagas) // 2
            return _settle(context, sagas[:middle]) | _settle(context, sagas[middle:])
        (saga,) = sagas
        log.error("a result cannot be kept", task=saga.work.key.task, reason=str(error))
    failed = replace(failure(saga), outcome=Outcome.GARBAGE, reason="its result cannot be kept")
    attempts.abort(context.engine, [failed], context.now())
    return {saga.work.key: Settled.REFUSED}


def _refuse(context: Context, sagas: Sequence[Saga]) -> None:
    """What was done under an old token is not accepted, whoever did it how well (C6)."""
    fenced = [
        replace(failure(saga), agent=None, outcome=Outcome.FENCED, reason="its lane changed hands")
        for saga in sagas
    ]
    if fenced:
        attempts.abort(context.engine, fenced, context.now())


def settlement(saga: Saga) -> Settlement:
    """What the ledger needs to know of a validated attempt."""
    reply, verdict = saga.reply, saga.verdict
    return Settlement(
        key=saga.work.key,
        payer=saga.work.payer,
        agent=saga.agent,
        size=saga.work.size,
        cost_ub=saga.cost_ub,
        output=reply.output if reply else None,
        latency_s=reply.latency_s if reply else 0.0,
        reason=verdict.reason if verdict else "",
    )


def _let_wait(context: Context, outcomes: Mapping[AttemptKey, Settled]) -> None:
    """A payer whose quota was cut while the agent worked: the task waits for credit again."""
    broke = [
        Waiting(key, UNPAID[outcome], context.now_ms() + CREDIT_MS)
        for key, outcome in outcomes.items()
        if outcome in UNPAID
    ]
    if broke:
        attempts.put_back(context.engine, broke)
