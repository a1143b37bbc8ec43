"""`cron.submit`: a cron job that gives its lane work, without code of one's own.

The tasks' keys are made of job, slot and number: the same slot submits the same tasks, however
often it runs. A message that comes from elsewhere submits nothing. Row M01.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import structlog
from celery import shared_task

from ledger import intake
from ledger.errors import BadInput
from ledger.intake import Submission
from ledger.model import Json
from scheduler.jobs import Job
from tasks.context import Context, current
from tasks.cron import Turn, turn
from tasks.patience import patient

SUBMIT: Final = "cron.submit"
COUNT_MAX: Final = 1000  # they are accepted in one transaction
NEEDED: Final = ("client", "family", "payload")
KEYS: Final = (*NEEDED, "count")

log = structlog.get_logger()


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """So many equal tasks."""

    client: str
    family: str
    payload: Json
    count: int


def order_of(job: Job) -> Order:
    """What a job with this task submits. Raises BadInput that names the job's key."""
    place = f"beat_schedule.{job.name}.args"
    if len(job.args) != 1 or not isinstance(job.args[0], Mapping):
        raise BadInput(place, f"{SUBMIT} takes one dict", f"give [{{{', '.join(KEYS)}}}]")
    given: Mapping[str, Any] = job.args[0]
    for wrong in sorted(set(map(str, given)) - set(KEYS)):
        raise BadInput(f"{place}.{wrong}", "there is no such key", f"use {', '.join(KEYS)}")
    for missing in NEEDED:
        if missing not in given:
            raise BadInput(f"{place}.{missing}", "it is missing", "add it")
    for name in ("client", "family"):
        if not isinstance(given[name], str):
            raise BadInput(f"{place}.{name}", f"{given[name]!r} is no name", "give its id")
    count = given.get("count", 1)
    if type(count) is not int or not 1 <= count <= COUNT_MAX:
        raise BadInput(f"{place}.count", f"{count!r} is no count", f"use 1 to {COUNT_MAX}")
    return Order(
        client=given["client"], family=given["family"], payload=given["payload"], count=count
    )


@shared_task(name=SUBMIT)
def submit(_order: Any = None) -> None:
    """Submit what the job that runs here asks for: the table says what, not the message."""
    now = turn()
    if now is None:
        log.error("message refused", step=SUBMIT, reason="no job runs here")
        return
    _submit(current(), now)


@patient
def _submit(context: Context, now: Turn) -> None:
    job, order = now.job, order_of(now.job)
    key = f"cron:{job.name}:{now.run.slot.isoformat()}"
    asked = [
        Submission(
            family=order.family,
            payload=order.payload,
            lane=job.lane,
            idempotency_key=f"{key}:{number}",
        )
        for number in range(1, order.count + 1)
    ]
    intake.submit(context.engine, order.client, asked, context.now())
