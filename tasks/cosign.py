"""Asking witnesses to sign a checkpoint (c2sp.org/tlog-witness).

Each witness has a thread of its own while it is asked, and one at a time: one that is away, slow or
broken holds up neither the log nor the others, and takes up where it was when it is back. Row M22.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Set
from dataclasses import dataclass, field
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
REFUSED: Final = 422  # what it is shown is not what it has signed
FAULT_MAX: Final = 300  # characters

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Round:
    """One checkpoint that all witnesses are asked to sign: a quorum is one of the same size."""

    stored: Stored
    since_s: float
    asked: set[str] = field(default_factory=set)  # keys of witnesses


_rounds: list[_Round] = []  # the one that is under way; of the one thread that asks
_asked: dict[str, threading.Thread] = {}  # by the witness's key
_faults: dict[str, str] = {}  # what was told last: once is enough
_guard = threading.Lock()


class _Answer(NamedTuple):
    status: int
    text: str


class _Refusal(ClearlaneError):
    """A witness did not sign, and why."""


class _Accusation(_Refusal):
    """It answered that the log is not the one that it has signed."""


class _Fault(NamedTuple):
    """Why there is no signature; "" when there is one."""

    text: str
    accuses: bool = False


def ask(context: Context, policy: Policy, newest: Stored) -> None:
    """Have each witness that has not signed it asked for the checkpoint of this round, unless it is
    being asked for another one; when all were asked, `newest` begins the next round.

    Slow ones that were each asked for whatever was newest when they became free would sign all the
    time, and never enough of them the same.
    """
    if newest.size == 0:
        return
    wanted = {found.key.encode(): found for found in policy.witnesses if found.url is not None}
    current = _current(context, wanted.keys(), newest)
    for vkey, witness in wanted.items():
        if vkey in current.asked or vkey in current.stored.witnesses:
            continue
        with _guard:
            if vkey in _asked:
                continue
            _asked[vkey] = threading.Thread(
                target=_work,
                args=(context, policy, witness, current.stored),
                name=f"witness-{witness.name}",
                daemon=True,  # a stop does not wait: what was not kept is asked for again
            )
        try:
            _asked[vkey].start()
        except RuntimeError:  # no more threads: the next time tries again
            _asked.pop(vkey)
            raise
        current.asked.add(vkey)


def _current(context: Context, wanted: Set[str], newest: Stored) -> _Round:
    """The round that is under way. It is over when all were asked, enough have signed, or it has
    taken as long as an answer may."""
    now_s = time.monotonic()
    for current in _rounds:
        if (
            now_s - current.since_s < ANSWER_S
            and wanted - current.asked - set(current.stored.witnesses)
            and checkpoints.at(context.engine, current.stored.size).quorum_at is None
        ):
            return current
    _rounds[:] = [_Round(newest, now_s)]
    return _rounds[0]


def finish() -> None:
    """Wait until nobody is being asked any more; what is asked then is a new round."""
    for thread in list(_asked.values()):
        thread.join()
    _rounds.clear()


def _work(context: Context, policy: Policy, witness: Witness, stored: Stored) -> None:
    vkey = witness.key.encode()
    try:
        fault = _exchange(context, witness, stored)
        checkpoints.tell_witness(
            context.engine,
            witness.key,
            stored.size,
            fault.text,
            context.now(),
            accuses=fault.accuses,
        )
        if not fault.text:
            newest = checkpoints.at(context.engine, stored.size)
            checkpoints.settle_quorum(context.engine, newest, policy, context.now())
    except Exception as error:
        fault = _Fault(printable(f"{type(error).__name__}: {error}", FAULT_MAX))
    finally:
        with _guard:
            _asked.pop(vkey)
    _tell(witness, stored.size, fault.text)


def _tell(witness: Witness, size: int, fault: str) -> None:
    """Log what is new of a witness."""
    vkey = witness.key.encode()
    if fault != _faults.get(vkey, ""):
        told = {"witness": witness.name, "size": size}
        if fault:
            log.warning("witness has not signed", **told, reason=fault)
        else:
            log.info("witness signs again", **told)
    _faults[vkey] = fault


def _exchange(context: Context, witness: Witness, stored: Stored) -> _Fault:
    """Ask a witness and keep its signature."""
    try:
        signature = _signature(context, witness, stored)
    except _Refusal as error:
        return _Fault(printable(str(error), FAULT_MAX), isinstance(error, _Accusation))
    checkpoints.cosign(context.engine, stored.size, witness.key, signature, context.now())
    return _Fault("")


def _signature(context: Context, witness: Witness, stored: Stored) -> Signature:
    """A witness's signature, verified. Raises _Refusal."""
    (known,) = checkpoints.witnesses(context.engine, [witness.key])
    old = known.signed or 0
    answer = _post(context, witness, stored, old)
    if answer.status == CONFLICT:
        seen = _size(answer)
        if seen > checkpoints.newest(context.engine).size:  # another of us may have shown it more
            raise _Accusation(f"it has seen {seen} leaves and does not follow to {stored.size}")
        if seen > stored.size:
            raise _Refusal(f"it has signed {seen} leaves already")
        if seen != old:
            answer = _post(context, witness, stored, seen)
        if answer.status == CONFLICT and seen == stored.size:
            raise _Accusation(f"it has signed another root of the same {seen} leaves")
    if answer.status != OK:
        kind = _Accusation if answer.status == REFUSED else _Refusal
        raise kind(f"it answered {answer.status}: {answer.text}")
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
