"""What was signed against what the log is: checkpoints, their signatures, the keys. Row C7."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection

from ledger.db import query, scan
from ledger.errors import BadInput
from ledger.proof.checkpoint import Checkpoint
from ledger.proof.entries import decode, stamp
from ledger.proof.errors import ProofRefused
from ledger.proof.notes import Note, Signature, VerifierKey
from ledger.proof.tiles import decode_bundle

ROWS: Final = 1000  # in memory at a time


class _Key(NamedTuple):
    """A key of the log, and where the log announces it; None: the first."""

    key: VerifierKey
    leaf: int | None


def checkpoint_violations(connection: Connection) -> Iterator[tuple[str, str]]:
    """Subject and violation, of every checkpoint, every cosignature and every key."""
    keys: list[_Key] = []
    for number, row in enumerate(query(connection, "check_keys"), 1):
        fault = _key_fault(row, number, keys)
        if fault is not None:
            yield f"log key {row.vkey}", fault
    yield from map(tuple, query(connection, "check_signed"))
    for size, text, root, witnesses, lines in scan(connection, "check_checkpoints", at_a_time=ROWS):
        try:
            note = _checked(size, text, root, _due(size, keys))
        except ProofRefused as error:
            yield f"checkpoint {size}", str(error)
            continue
        for witness, line in zip(witnesses, lines, strict=True):
            try:
                _check_cosignature(note, witness, line)
            except ProofRefused as error:
                yield f"checkpoint {size}", f"cosignature of {witness}: {error}"


def _due(size: int, keys: Sequence[_Key]) -> list[VerifierKey]:
    """Who signs so many leaves: the key announced last; the one before it too, if that was the
    last of these leaves."""
    announced = [item for item in keys if item.leaf is None or item.leaf < size]
    if len(announced) > 1 and announced[-1].leaf == size - 1:
        return [item.key for item in announced[-2:]]
    return [item.key for item in announced[-1:]]


def _checked(size: int, text: str, root: bytes | None, due: Sequence[VerifierKey]) -> Note:
    """The note of a checkpoint, if all of it is as it must be."""
    if root is None:
        raise ProofRefused("the log never had this size")
    note = Note.parse(text)
    checkpoint = Checkpoint.parse(note.text)
    if (checkpoint.size, checkpoint.root) != (size, root):
        raise ProofRefused("it names another size or root than the log has")
    signed = {found.key for found in note.verified_by(due)}
    for key in due:
        if key not in signed:
            raise ProofRefused(note.absent(key))
        if key.name != checkpoint.origin:
            raise ProofRefused(f"its name {checkpoint.origin!r} is not that of its key")
    if len(note.signatures) != len(due) or note.encode() != text:
        raise ProofRefused("it has more lines than the log's own")
    return note


def _check_cosignature(note: Note, witness: str, line: str) -> None:
    key = VerifierKey.parse(witness)
    found = Signature.parse(line.removesuffix("\n"))
    if (found.name, found.key_id) != (key.name, key.key_id):
        raise ProofRefused("it is another's")
    if found.encode() != line:
        raise ProofRefused("it is not one line")
    key.verify(note.text, found.data, part="cosignature", line=1)


def _key_fault(row: Any, number: int, keys: list[_Key]) -> str | None:
    """What is wrong with a key, which is added to those before it."""
    before = keys[-1].key.encode() if keys else None
    if row.number != number:
        return f"it is key {row.number}, where key {number} comes next"
    try:
        keys.append(_Key(VerifierKey.parse(row.vkey), row.leaf))
        if row.leaf is None:
            return None
        leaf = decode(decode_bundle(row.entries)[row.leaf - row.first])
    except (ProofRefused, BadInput, IndexError, TypeError):
        return f"it is no key, or leaf {row.leaf} does not announce it"
    said = leaf["type"], leaf.get("old"), leaf.get("new"), leaf["at"]
    if said != ("key", before, row.vkey, stamp(row.at)):
        return f"leaf {row.leaf} does not announce it"
    return None
