"""`cron.close_epoch`: an epoch whose time is over is closed. Row M07."""

from __future__ import annotations

import structlog
from celery import shared_task

from ledger import epochs
from ledger.epochs import Epoch
from ledger.errors import BadInput
from ledger.proof.notes import Signer
from tasks.context import Context, current
from tasks.patience import patient

log = structlog.get_logger()


@shared_task(name="cron.close_epoch")
def close_epoch() -> None:
    """Close the open epoch if it is due. Two at once close it once."""
    _close_due(current())


@patient
def _close_due(context: Context) -> None:
    number = epochs.due(context.engine, context.now())
    if number is None:
        return
    closed = close(context, number)
    if closed is not None:
        log.info("epoch closed", epoch=number, size=closed.size)


def close(context: Context, number: int) -> Epoch | None:
    """Close an epoch and tell the plug-ins; None if it is not the open one. Row M12.

    They are told once at the most: never, if this process dies in between.
    """
    closed = epochs.close(context.engine, number, context.now(), _signer(context))
    if closed is not None:
        context.hooks.tell("on_epoch_end", epoch=number)
    return closed


def _signer(context: Context) -> Signer | None:
    """Who signs the end of an epoch; None where the key is not at hand: whoever signs the log all
    the time tells of it."""
    try:
        return None if context.notary is None else context.notary.signer()
    except BadInput:
        return None
