"""`cron.checkpoint`: what the log has become is signed, and shown to its witnesses. Row M21."""

from __future__ import annotations

from celery import shared_task

from ledger import checkpoints
from ledger.errors import InvariantBroken
from tasks import cosign
from tasks.context import Context, current
from tasks.patience import patient


@shared_task(name="cron.checkpoint")
def checkpoint() -> None:
    """Sign the log if it has grown. Two at once sign it once."""
    _checkpoint(current())


@patient
def _checkpoint(context: Context) -> None:
    if context.notary is None:
        raise InvariantBroken("there is nobody to sign the log")
    checkpoints.sign(context.engine, context.notary.signer, context.now())
    policy = context.notary.policy()
    if policy is None:
        return
    newest = checkpoints.newest(context.engine)
    checkpoints.settle_quorum(context.engine, newest, policy, context.now())
    cosign.ask(context, policy, newest)
