"""Asking witnesses to sign a checkpoint (c2sp.org/tlog-witness).

Each witness has a thread of its own while it is asked, and one at a time: one that is away, slow or
broken holds up neither the log nor the others, and takes up where it was when it is back. Row M22.
"""

from __future__ import annotations

import asyncio
import threading
from typing import Final, NamedTuple

import aiohttp
import structlog

from ledger import checkpoints, leaves
from ledger.checkpoints import Stored
from ledger.errors import ClearlaneError
from ledger.proof.errors import ProofRefused
from ledger.proof.merkle import consistency_proof
from ledger.proof.notes import Note, Signature
from ledger.proof.policy import Policy, Witness
from ledger.proof.text import read_number, show_base64
from tasks.context import Context
from tasks.reach import why_unreachable
from tasks.text import printable

ANSWER_S: Final = 5.0
ANSWER_BYTES_MAX: Final = 65_536
LINES_MAX: Final = 16  # signatures in an answer
OK: Final = 200
CONFLICT: Final = 409  # it has seen another size than the one we named; it says which
FAULT_MAX: Final = 300  # characters

log = structlog.get_logger()

_asked: dict[str, threading.Thread] = {}  # by the witness's key
_faults: dict[str, str] = {}  # what was told last: once is enough
_guard = threading.Lock()


class _Answer(NamedTuple):
    status: int
    text: str


class _Refusal(ClearlaneError):
    """A witness did not sign, and why."""


def ask(context: Context, policy: Policy, stored: Stored) -> None:
    """Have each witness that has not signed this checkpoint asked, unless it is being asked."""
    if stored.size == 0:
        return
    for witness in policy.witnesses:
        vkey = witness.key.encode()
        if witness.url is None or vkey in stored.witnesses:
            continue
        with _guard:
            if vkey in _asked:
                continue
            _asked[vkey] = threading.Thread(
                target=_work,
                args=(context, policy, witness, stored),
                name=f"witness-{witness.name}",
                daemon=True,  # a stop does not wait: what was not kept is asked for again
            )
        try:
            _asked[vkey].start()
        except RuntimeError:  # no more threads: the next checkpoint tries again
            _asked.pop(vkey)
            raise


def finish() -> None:
    """Wait until nobody is being asked any more."""
    for thread in list(_asked.values()):
        thread.join()


def _work(context: Context, policy: Policy, witness: Witness, stored: Stored) -> None:
    vkey = witness.key.encode()
    try:
        fault = _exchange(context, witness, stored)
        checkpoints.tell_witness(context.engine, witness.key, stored.size, fault, context.now())
        if not fault:
            newest = checkpoints.at(context.engine, stored.size)
            checkpoints.settle_quorum(context.engine, newest, policy, context.now())
    except Exception as error:
        fault = f"{type(error).__name__}: {error}"
    finally:
        with _guard:
            _asked.pop(vkey)
    fault = printable(fault, FAULT_MAX)
    if fault != _faults.get(vkey, ""):
        told = {"witness": witness.name, "size": stored.size}
        if fault:
            log.warning("witness has not signed", **told, reason=fault)
        else:
            log.info("witness signs again", **told)
    _faults[vkey] = fault


def _exchange(context: Context, witness: Witness, stored: Stored) -> str:
    """Ask a witness and keep its signature; why there is none, or nothing."""
    try:
        signature = _signature(context, witness, stored)
    except _Refusal as error:
        return printable(str(error), FAULT_MAX)
    checkpoints.cosign(context.engine, stored.size, witness.key, signature, context.now())
    return ""


def _signature(context: Context, witness: Witness, stored: Stored) -> Signature:
    """A witness's signature, verified. Raises _Refusal."""
    (known,) = checkpoints.witnesses(context.engine, [witness.key])
    old = known.signed or 0
    answer = _post(context, witness, stored, old)
    if answer.status == CONFLICT:
        seen = _size(answer)
        if seen > stored.size or seen == old:
            raise _Refusal(f"it has seen {seen} leaves and does not follow to {stored.size}")
        answer = _post(context, witness, stored, seen)
    if answer.status != OK:
        raise _Refusal(f"it answered {answer.status}: {answer.text}")
    return _verified(witness, stored.note, answer.text)


def _size(answer: _Answer) -> int:
    try:
        return read_number(answer.text.removesuffix("\n"), "the size", part="answer", line=1)
    except ProofRefused as error:
        raise _Refusal(
            f"it answered {answer.status} without the size that it has: {error}"
        ) from None


def _verified(witness: Witness, note: Note, text: str) -> Signature:
    lines = text.splitlines()
    if len(lines) > LINES_MAX:
        raise _Refusal(f"it answered with more than {LINES_MAX} lines")
    try:
        for number, line in enumerate(lines, 1):
            found = Signature.parse(line, part="answer", line=number)
            if (found.name, found.key_id) == (witness.key.name, witness.key.key_id):
                witness.key.verify(note.text, found.data, part="answer", line=number)
                return found
    except ProofRefused as error:
        raise _Refusal(str(error)) from None
    raise _Refusal(f"its answer has no signature of {witness.key}")


def _post(context: Context, witness: Witness, stored: Stored, old: int) -> _Answer:
    proof = consistency_proof(old, stored.size, leaves.nodes(context.engine, stored.size))
    hashes = "".join(f"{show_base64(part)}\n" for part in proof)
    body = f"old {old}\n{hashes}\n{stored.note.encode()}"
    try:
        return asyncio.run(_send(f"{(witness.url or '').rstrip('/')}/add-checkpoint", body))
    except TimeoutError:
        raise _Refusal(f"no answer within {ANSWER_S:g} s") from None
    except (aiohttp.ClientError, ValueError) as error:
        raise _Refusal(f"it does not answer: {why_unreachable(error)}") from None


async def _send(url: str, body: str) -> _Answer:
    limit = aiohttp.ClientTimeout(total=ANSWER_S)
    async with (
        aiohttp.ClientSession(timeout=limit) as session,
        session.post(url, data=body.encode(), allow_redirects=False) as response,
    ):
        data = b""
        while len(data) <= ANSWER_BYTES_MAX and (part := await response.content.readany()):
            data += part
    return _Answer(response.status, data[:ANSWER_BYTES_MAX].decode("utf-8", "replace"))
