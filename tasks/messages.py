"""What travels through Celery: attempt keys, nothing else.

A message is a hint that something may be done; the state in Redis and PostgreSQL decides. So a
message may come twice, late, or never.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import structlog
from celery import current_app
from kombu.exceptions import OperationalError

from ledger.errors import BadInput, Unavailable
from ledger.intake import checked_id
from ledger.model import AttemptKey

CHUNK_MAX = 256  # attempts in one message
ATTEMPT_MAX = 2**31 - 1

RESERVE = "saga.reserve"
EXECUTE = "saga.execute"
VALIDATE = "saga.validate"
COMMIT = "saga.commit"
ABORT = "saga.abort"

log = structlog.get_logger()


def send(step: str, keys: Sequence[AttemptKey]) -> None:
    """Pass attempts on to a step, in messages of at most `CHUNK_MAX`.

    Raises Unavailable when the broker does not take them; sending again is harmless.
    """
    try:
        _send(step, keys)
    except OperationalError as error:
        raise Unavailable("broker", str(error), "it is retried; see `clearlane status`") from error


def _send(step: str, keys: Sequence[AttemptKey]) -> None:
    for chunk in chunks(keys):
        current_app.send_task(
            step,
            args=[[[key.task, key.attempt] for key in chunk]],
            # What Flower shows. Left to itself Celery renders all arguments, slower than the
            # step itself takes.
            argsrepr=f"({len(chunk)} attempts, first {chunk[0].task}:{chunk[0].attempt})",
            kwargsrepr="{}",
        )


def chunks(keys: Sequence[AttemptKey]) -> Iterator[Sequence[AttemptKey]]:
    """The keys in groups of at most `CHUNK_MAX`, in order."""
    for start in range(0, len(keys), CHUNK_MAX):
        yield keys[start : start + CHUNK_MAX]


def received(step: str, message: Any) -> list[AttemptKey]:
    """The keys of a message, each once. What is not a key is dropped, logged, and harms no one."""
    if not isinstance(message, list) or len(message) > CHUNK_MAX:
        log.error("message refused", step=step, reason="not a list, or too long")
        return []
    return list(dict.fromkeys(_keys(step, message)))


def _keys(step: str, message: Iterable[Any]) -> Iterator[AttemptKey]:
    for item in message:
        match item:
            # JSON's true is an int to Python, and to PostgreSQL an error for the whole chunk.
            case [str(task), int(attempt)] if attempt is not True and 0 < attempt <= ATTEMPT_MAX:
                try:
                    yield AttemptKey(checked_id(task), attempt)
                    continue
                except BadInput:
                    pass
        log.error("message refused", step=step, reason="not a [task, attempt] pair")
