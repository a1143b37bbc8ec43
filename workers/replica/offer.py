"""A request to sign (c2sp.org/tlog-witness): `old N`, a proof, a blank line, a checkpoint."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Self

from ledger.proof.checkpoint import Checkpoint
from ledger.proof.errors import ProofRefused
from ledger.proof.notes import Note, VerifierKey
from ledger.proof.text import read_base64, read_number, read_utf8
from workers.replica.faults import Refused

BODY_MAX_BYTES: Final = 65_536
PROOF_MAX: Final = 63
PART: Final = "add-checkpoint"
ROTATED: Final = (
    "; if its operator has changed the key, check the new one and restart with it as --log-key"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Offer:
    """A checkpoint to sign. `old`: the size that its `proof` starts from."""

    old: int
    proof: tuple[bytes, ...]
    note: Note
    checkpoint: Checkpoint

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """The offer; nothing of it is verified yet. Raises Refused (400)."""
        try:
            return cls._parse(body)
        except ProofRefused as error:
            raise Refused(400, str(error)) from error

    @classmethod
    def _parse(cls, body: bytes) -> Self:
        text = read_utf8(body, PART, bytes_max=BODY_MAX_BYTES)
        head, blank, note_text = text.partition("\n\n")
        first, *lines = head.split("\n")
        word, _, number = first.partition(" ")
        if word != "old" or not blank:
            raise ProofRefused("not `old N`, a proof, a blank line, a checkpoint", part=PART)
        if len(lines) > PROOF_MAX:
            raise ProofRefused(f"more than {PROOF_MAX} hashes", part=PART)
        old = read_number(number, "the old size", part=PART, line=1)
        proof = tuple(read_base64(t, "the hash", part=PART, line=n) for n, t in enumerate(lines, 2))
        first_line = len(lines) + 3
        note = Note.parse(note_text, part=PART, first_line=first_line)
        checkpoint = Checkpoint.parse(note.text, part=PART, first_line=first_line)
        if old > checkpoint.size:
            raise ProofRefused(f"old {old} is beyond the checkpoint's {checkpoint.size}", part=PART)
        return cls(old=old, proof=proof, note=note, checkpoint=checkpoint)


def require_signed(note: Note, checkpoint: Checkpoint, keys: Iterable[VerifierKey]) -> None:
    """Raises Refused unless one of the log's keys has signed: 404 another log, 403 nobody known."""
    known = [key for key in keys if key.name == checkpoint.origin]
    if not known:
        raise Refused(404, f"{checkpoint.origin!r} is not the log that is replicated here")
    try:
        note.verified_by(known, part="checkpoint")
    except ProofRefused as error:
        ids = {key.key_id for key in known}
        others = (s for s in note.signatures if s.name == checkpoint.origin)
        changed = ROTATED if any(s.key_id not in ids for s in others) else ""
        raise Refused(403, f"{error}{changed}") from error
