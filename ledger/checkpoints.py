"""Checkpoints: what the log has committed to, who has signed it, and receipts made of it.

A checkpoint is kept before anybody sees it, and there is one for a size: whatever process signs,
the log never says two things. Its witnesses' signatures come later, and with enough of them it is
final. Row M21.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, Engine

from ledger import leaves
from ledger.db import dicts, one, query, single, transaction
from ledger.errors import Conflict, NotFound, Unavailable
from ledger.log import Head, open_page
from ledger.proof import entries
from ledger.proof.checkpoint import Checkpoint
from ledger.proof.merkle import inclusion_proof
from ledger.proof.notes import Note, Signature, Signer, VerifierKey
from ledger.proof.policy import Policy
from ledger.proof.receipts import Receipt

PERIOD_S: Final = 2  # between two checkpoints of a log that grows


class NotYet(Unavailable):
    """No checkpoint holds a leaf yet; the next one will."""

    def __init__(self, index: int) -> None:
        reason = f"none holds leaf {index} yet; the log signs one every {PERIOD_S} s"
        super().__init__("checkpoint", reason, "ask again then; `clearlane doctor` if it stays so")
        self.index = index


@dataclass(frozen=True, kw_only=True, slots=True)
class LogKey:
    """A key that the log is or was signed with. `leaf`: where the log announces it; None: the
    first."""

    key: VerifierKey
    leaf: int | None
    at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class Stored:
    """A checkpoint: `note` as it is served, with the signatures of `witnesses` below the log's.

    `quorum_at`: when there were enough of them; None: not yet, or nobody has said what is enough.
    """

    size: int
    note: Note
    at: datetime
    quorum_at: datetime | None
    witnesses: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class WitnessState:
    """What we know of a witness: the newest size that it signed, and why it did not the last time.

    `witness` is its verifier key, `fault` "" when all went well or it was never asked. `accuses`:
    it answered that the log is not the one that it has signed.
    """

    witness: str
    signed: int | None
    signed_at: datetime | None
    asked: int | None
    asked_at: datetime | None
    fault: str
    accuses: bool


def newest(engine: Engine) -> Stored:
    """The newest checkpoint. Raises NotFound."""
    with single(engine) as connection:
        row = query(connection, "checkpoint_newest").fetchone()
    if row is None:
        raise NotFound(
            "checkpoint", "none was signed yet", "start the log's worker (queue control)"
        )
    return _stored(row)


def at(engine: Engine, size: int) -> Stored:
    """The checkpoint of a size. Raises NotFound."""
    with single(engine) as connection:
        row = query(connection, "checkpoint_at", {"size": size}).fetchone()
    if row is None:
        raise NotFound("size", f"none of {size} leaves was signed", "take a later one")
    return _stored(row)


def covering(engine: Engine, index: int) -> Stored:
    """The newest checkpoint of the quorum that holds a leaf, without one the newest that holds it.

    Raises NotFound when there is no such leaf, NotYet.
    """
    with single(engine) as connection:
        row = query(connection, "checkpoint_covering", {"index": index}).fetchone()
    if row is not None:
        return _stored(row)
    size, _ = leaves.size(engine)
    if index >= size:
        raise NotFound("index", f"the log has no leaf {index}", f"use 0 to {size - 1}")
    raise NotYet(index)


def receipt(engine: Engine, index: int) -> Receipt:
    """What proves, without any server, that a leaf is in the log. Raises NotFound, NotYet."""
    stored = covering(engine, index)
    proof = inclusion_proof(index, stored.size, leaves.nodes(engine, stored.size))
    return Receipt(index=index, proof=proof, note=stored.note)


def keys(engine: Engine) -> list[LogKey]:
    """The keys of the log, the one that signs now first."""
    with single(engine) as connection:
        rows = query(connection, "checkpoint_keys").fetchall()
    return [LogKey(key=VerifierKey.parse(row.vkey), leaf=row.leaf, at=row.at) for row in rows]


def introduce(engine: Engine, key: VerifierKey, now: datetime) -> None:
    """Make this the log's first key, unless it has one."""
    with single(engine) as connection:
        query(connection, "checkpoint_first_key", {"vkey": key.encode(), "now": now})


def sign(engine: Engine, signer: Callable[[], Signer], now: datetime) -> int | None:
    """Sign the log as it stands; its size, None when that was done already.

    The signer is asked for only when there is something to sign. Raises Conflict when its key is
    not the log's.
    """
    with single(engine) as connection:
        head = one(query(connection, "checkpoint_head"))
    if head.signed == head.size:
        return None
    found = signer()
    if head.vkey is None:
        introduce(engine, found.key, now)
    else:
        _check_key(found, head.vkey)
    checkpoint = Checkpoint(origin=found.name, size=head.size, root=bytes(head.root))
    with single(engine) as connection:
        added = _add(connection, checkpoint, [found], now)
    return head.size if added else None


def sign_end(connection: Connection, signer: Signer, head: Head, now: datetime) -> bool:
    """Sign the log as this transaction leaves it; False when that is not the key that signs it."""
    checkpoint = Checkpoint(origin=signer.name, size=head.size, root=head.edge.root())
    return _add(connection, checkpoint, [signer], now)


def rotate(engine: Engine, old: Signer, new: Signer, now: datetime) -> int:
    """Announce a new key in the log, and sign the log with it from there on; the leaf's index.

    Both keys sign the checkpoint that first holds the announcement: the old one's last, the new
    one's first. Whoever trusts the old one learns of the new one from it. Raises Conflict when
    `old` is not the log's key.
    """
    with transaction(engine) as connection:
        page = open_page(connection, now)
        head = one(query(connection, "checkpoint_head"))
        _check_key(old, head.vkey)
        announced = {"old": old.key.encode(), "new": new.key.encode()}
        leaf = page.add(entries.key(epoch=page.epoch, at=page.at, **announced))
        grown = page.write(connection)
        values = {"vkey": announced["new"], "leaf": leaf, "now": now}
        query(connection, "checkpoint_next_key", values)
        checkpoint = Checkpoint(origin=new.name, size=grown.size, root=grown.edge.root())
        _add(connection, checkpoint, [old, new], now)
    return leaf


def cosign(engine: Engine, size: int, witness: VerifierKey, line: Signature, now: datetime) -> None:
    """Keep a witness's signature, which was verified, on the checkpoint of a size."""
    values = {"size": size, "witness": witness.encode(), "line": line.encode(), "now": now}
    with single(engine) as connection:
        query(connection, "checkpoint_cosign", values)


def settle_quorum(engine: Engine, stored: Stored, policy: Policy, now: datetime) -> bool:
    """Whether enough have signed a checkpoint; then the epochs that it holds are final."""
    if stored.quorum_at is not None:
        return True
    signed = set(stored.witnesses)
    names = [witness.name for witness in policy.witnesses if witness.key.encode() in signed]
    if not policy.satisfied(names):
        return False
    with transaction(engine) as connection:
        values = {"size": stored.size, "now": now}
        query(connection, "checkpoint_quorum", values)
        query(connection, "checkpoint_final", values)
    return True


def tell_witness(
    engine: Engine,
    witness: VerifierKey,
    size: int,
    fault: str,
    now: datetime,
    *,
    accuses: bool = False,
) -> None:
    """Keep how it went when a witness was asked to sign a size."""
    values = {"witness": witness.encode(), "size": size, "fault": fault, "now": now}
    with single(engine) as connection:
        query(connection, "checkpoint_asked", values | {"accuses": accuses})


def witnesses(engine: Engine, wanted: Sequence[VerifierKey]) -> list[WitnessState]:
    """What is known of each of these witnesses, in their order."""
    names = [key.encode() for key in wanted]
    with single(engine) as connection:
        rows = dicts(query(connection, "checkpoint_witnesses", {"witnesses": names}))
    found = {row["witness"]: WitnessState(**row) for row in rows}
    return [found[name] for name in names]


def _add(
    connection: Connection, checkpoint: Checkpoint, signers: Sequence[Signer], now: datetime
) -> bool:
    """Keep a checkpoint; False when its size has one, or the last of these keys signs no more."""
    body = checkpoint.body()
    note = Note(text=body, signatures=tuple(signer.sign(body) for signer in signers))
    vkey = signers[-1].key.encode()
    values = {"size": checkpoint.size, "note": note.encode(), "vkey": vkey, "now": now}
    return query(connection, "checkpoint_add", values).fetchone() is not None


def _check_key(signer: Signer, vkey: str | None) -> None:
    if vkey != signer.key.encode():
        found = "it has no key yet" if vkey is None else f"it is signed by {vkey}"
        raise Conflict("log key", f"{signer.key} is not the log's: {found}", "restore its key file")


def _stored(row: Any) -> Stored:
    note = Note.parse(row.note).signed(*(Signature.parse(line[:-1]) for line in row.lines))
    return Stored(
        size=row.size,
        note=note,
        at=row.at,
        quorum_at=row.quorum_at,
        witnesses=tuple(row.witnesses),
    )
