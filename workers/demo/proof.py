"""A settled task's receipt, verified as whoever gets it would: with the log's key and nothing else.

Row M21.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Final

from ledger import checkpoints, leaves
from ledger.checkpoints import NotYet, Stored
from ledger.proof import entries
from ledger.proof.errors import ProofRefused
from ledger.proof.notes import VerifierKey
from ledger.proof.receipts import verify
from tasks.context import Context
from workers.demo.stage import DemoFailed, await_true

WAIT_S: Final = 60.0  # the log is signed every two seconds


@dataclass(frozen=True, kw_only=True, slots=True)
class Proof:
    """What a receipt has proven: its entry is leaf `index` of the `size` leaves that `key` signed.

    The entry says that the task cost `price_ub`, of which the agent was paid `paid_ub`.
    """

    task: str
    agent: str
    price_ub: int
    paid_ub: int
    index: int
    size: int
    key: VerifierKey


def prove(context: Context, task: str, size: int) -> Proof:
    """Await a checkpoint of `size` leaves, then verify a task's receipt. Raises DemoFailed."""
    await_true(f"the log has signed {size} leaves", partial(_signed, context, size), WAIT_S)
    index = leaves.leaf_of(context.engine, task)
    receipt = checkpoints.receipt(context.engine, index).encode()
    entry = leaves.entry(context.engine, index)
    return _verified(task, receipt, entry, checkpoints.keys(context.engine)[0].key)


def _signed(context: Context, size: int) -> Stored | None:
    try:
        return checkpoints.covering(context.engine, size - 1)
    except NotYet:
        return None


def _verified(task: str, receipt: str, entry: bytes, key: VerifierKey) -> Proof:
    """What this proves, with no server. Raises DemoFailed."""
    try:
        found = verify(receipt, entry, key, None)
    except ProofRefused as error:
        raise DemoFailed(f"the receipt of task {task} does not verify: {error}") from error
    said = entries.decode(entry)
    if said.get("task") != task:
        raise DemoFailed(f"leaf {found.index} is not the settlement of task {task}")
    (_, price), (agent, share), _ = said["postings"]
    return Proof(
        task=task,
        agent=agent.removeprefix("agent:"),
        price_ub=-int(price),
        paid_ub=int(share),
        index=found.index,
        size=found.checkpoint.size,
        key=key,
    )
