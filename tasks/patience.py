"""Waiting for a server that is away, inside a step.

A step that cannot reach PostgreSQL or Redis could only fail and be sent again into the same
outage; it waits in place instead. If the outage outlasts its patience it gives up: the sweeper
finds what was left.
"""

from __future__ import annotations

import structlog
from tenacity import (
    RetryCallState,
    retry,
    retry_if_exception,
    stop_after_delay,
    wait_exponential_jitter,
)

from ledger.errors import ClearlaneError

PATIENCE_S = 60.0

log = structlog.get_logger()


def _is_retryable(error: BaseException) -> bool:
    return isinstance(error, ClearlaneError) and error.retryable


def _say(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    log.warning("waiting for a server", reason=str(error), tries=state.attempt_number)


patient = retry(
    retry=retry_if_exception(_is_retryable),
    wait=wait_exponential_jitter(multiplier=0.05, max=2.0),
    stop=stop_after_delay(PATIENCE_S),
    before_sleep=_say,
    reraise=True,
)
"""Decorator: run a step that is safe to repeat again while a server is away."""
