"""`saga.execute`: call the agents of a chunk, keep what they answer.

RESERVED to EXECUTING; the reply is kept in Redis before anything is told to anyone, so that a
worker that dies afterwards loses nothing (paper section 6.2; row M04).
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from celery import shared_task

from ledger import attempts
from ledger.attempts import Waiting
from ledger.model import AttemptKey, Reply, SagaState, Wait
from tasks.call import Call
from tasks.context import Context, current
from tasks.messages import EXECUTE, VALIDATE, received, send
from tasks.patience import patient

if TYPE_CHECKING:
    from tasks.calls import Calls

_calls: list[Calls] = []


@shared_task(name=EXECUTE)
def execute(message: Any) -> None:
    """Start the calls of a chunk; `forward` follows as they finish."""
    keys = received(EXECUTE, message)
    loop = _loop()  # which may take a while the first time: nobody's call waits for it
    calls = _begin(current(), keys, caller=uuid.uuid4().hex)
    if calls:
        loop.start(calls)


@patient
def _begin(context: Context, keys: Sequence[AttemptKey], *, caller: str) -> list[Call]:
    """The calls that this message, and no copy of it, may make now."""
    if not keys:
        return []
    # Payloads first: once an attempt is EXECUTING, only its call or its lease can move it on.
    payloads = attempts.payloads(context.engine, [key.task for key in keys], context.now())
    _let_go(context, [key for key in keys if key.task not in payloads])
    wanted = [key for key in keys if key.task in payloads]
    sagas = context.reservations.begin(wanted, caller, context.now_ms())
    registry = context.registry(
        families={saga.work.family for saga in sagas}, agents={saga.agent for saga in sagas}
    )
    return [
        Call(
            key=saga.work.key,
            agent=registry.agents[saga.agent],
            family=saga.work.family,
            payload=payloads[saga.work.key.task],
            deadline_s=registry.families[saga.work.family].deadline_s,
        )
        for saga in sagas
    ]


def _let_go(context: Context, keys: Sequence[AttemptKey]) -> None:
    """Release attempts whose tasks ended or expired while they waited, or whose lane is another's
    by now: no agent works for nothing, and none is called in somebody else's time (C6).

    One that is being called keeps what it holds: its agent is at work.
    """
    found = context.reservations.read(keys) if keys else []
    idle = [saga for saga in found if saga is not None and saga.state is SagaState.RESERVED]
    if idle:
        context.reservations.release(idle, settled=False)
        now_ms = context.now_ms()
        waiting = [Waiting(saga.work.key, Wait.LANE, now_ms) for saga in idle]
        attempts.put_back(context.engine, waiting)


@patient
def forward(replies: Mapping[AttemptKey, Reply]) -> None:
    """Keep replies, then let them be validated."""
    context = current()
    context.reservations.answer(replies, context.now_ms())
    send(VALIDATE, list(replies))


def finish_calls() -> None:
    """Wait for the calls that are out: a worker that stops in order abandons none."""
    while _calls:
        _calls.pop().close()


def _loop() -> Calls:
    # Made, and its HTTP client imported, on first use: only processes that execute need it.
    if not _calls:
        from tasks.calls import Calls

        _calls.append(Calls(forward, current().addresses))
    return _calls[0]
