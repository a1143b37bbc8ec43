"""What was signed against what the log is: checkpoints, their signatures, the keys. Row C7."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import Any, Final

from sqlalchemy import Connection

from ledger.db import query, scan
from ledger.errors import BadInput
from ledger.proof.checkpoint import Checkpoint
from ledger.proof.entries import decode
from ledger.proof.errors import ProofRefused
from ledger.proof.notes import Note, Signature, VerifierKey
from ledger.proof.tiles import decode_bundle

ROWS: Final = 1000  # in memory at a time


def checkpoint_violations(connection: Connection) -> Iterator[tuple[str, str]]:
    """Subject and violation, of every checkpoint and of every key."""
    rows = scan(connection, "check_checkpoints", at_a_time=ROWS)
    first = list(islice(rows, 1))  # before the keys: they may grow meanwhile
    keys: list[VerifierKey] = []
    for row in query(connection, "check_keys"):
        fault = _key_fault(row, keys)
        if fault is not None:
            yield f"log key {row.vkey}", fault
    for size, text, root, witnesses, lines in chain(first, rows):
        try:
            _check(size, text, bytes(root), keys)
        except ProofRefused as error:
            yield f"checkpoint {size}", str(error)
            continue
        for witness, line in zip(witnesses, lines, strict=True):
            try:
                _check_cosignature(Note.parse(text), witness, line)
            except ProofRefused as error:
                yield f"checkpoint {size}", f"cosignature of {witness}: {error}"


def _check(size: int, text: str, root: bytes, keys: Sequence[VerifierKey]) -> None:
    note = Note.parse(text)
    checkpoint = Checkpoint.parse(note.text)
    if (checkpoint.size, checkpoint.root) != (size, root):
        raise ProofRefused("it names another size or root than the log has")
    signed = note.verified_by(keys)
    if any(found.key.name != checkpoint.origin for found in signed):
        raise ProofRefused(f"its name {checkpoint.origin!r} is not that of its key")


def _check_cosignature(note: Note, witness: str, line: str) -> None:
    key = VerifierKey.parse(witness)
    found = Signature.parse(line.removesuffix("\n"))
    if (found.name, found.key_id) != (key.name, key.key_id):
        raise ProofRefused("it is another's")
    key.verify(note.text, found.data, part="cosignature", line=1)


def _key_fault(row: Any, keys: list[VerifierKey]) -> str | None:
    """What is wrong with a key, which is added to those before it."""
    before = keys[-1].encode() if keys else None
    try:
        keys.append(VerifierKey.parse(row.vkey))
        if row.leaf is None:
            return None
        leaf = decode(decode_bundle(bytes(row.entries))[row.leaf - row.first])
    except (ProofRefused, BadInput, IndexError, TypeError):
        return f"it is no key, or leaf {row.leaf} does not announce it"
    if (leaf["type"], leaf.get("old"), leaf.get("new")) != ("key", before, row.vkey):
        return f"leaf {row.leaf} does not announce it"
    return None
