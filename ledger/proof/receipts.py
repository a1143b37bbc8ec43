"""A receipt proves, without any server, that an entry is in the log (c2sp.org/tlog-proof@v1).

The format allows a line of `extra` data that nothing signs. Ours have none and none is read: no
byte of a receipt is outside what is checked, but the lines of keys nobody here knows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

from ledger.proof.checkpoint import Checkpoint
from ledger.proof.errors import ProofRefused
from ledger.proof.merkle import HASH_BYTES, leaf_hash, verify_inclusion
from ledger.proof.notes import LOG, Note, Signed, VerifierKey
from ledger.proof.policy import Policy
from ledger.proof.text import read_base64, read_number, read_utf8, show_base64

HEADER: Final = "c2sp.org/tlog-proof@v1"
INDEX_LINE: Final = 2
PROOF_MAX: Final = 63
RECEIPT_BYTES_MAX: Final = 1_010_000  # a note and 63 hashes
PART: Final = "receipt"


class NotSigned(ProofRefused):
    """The log's key is not among those that have signed: another log's, or of another time."""


class NoQuorum(ProofRefused):
    """The log has signed, but not as many witnesses as the policy asks for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Receipt:
    """Leaf `index`, its inclusion proof from the leaf up, and the signed checkpoint."""

    index: int
    proof: tuple[bytes, ...]
    note: Note

    def encode(self) -> str:
        """The receipt's text."""
        lines = [HEADER, f"index {self.index}", *map(show_base64, self.proof), "", ""]
        return "\n".join(lines) + self.note.encode()

    @property
    def note_line(self) -> int:
        """The line its checkpoint begins on."""
        return INDEX_LINE + len(self.proof) + 2

    @classmethod
    def parse(cls, data: bytes | str) -> Self:
        """The receipt, whose signatures and proof are not yet verified."""
        text = read_utf8(data, PART, bytes_max=RECEIPT_BYTES_MAX)
        head, _, note = text.partition("\n\n")
        lines = head.split("\n")
        if lines[0] != HEADER:
            raise ProofRefused(f"not the line {HEADER}", part=PART, line=1)
        if len(lines) < INDEX_LINE:
            raise ProofRefused("the text ends before the index", part=PART, line=INDEX_LINE)
        word, _, number = lines[1].partition(" ")
        if word == "extra":
            raise ProofRefused("extra data: nothing signs them", part=PART, line=INDEX_LINE)
        if word != "index":
            raise ProofRefused("not a line `index N`", part=PART, line=INDEX_LINE)
        index = read_number(number, "the index", part=PART, line=INDEX_LINE)
        if len(lines) - INDEX_LINE > PROOF_MAX:
            raise ProofRefused(f"more than {PROOF_MAX} hashes", part=PART)
        proof = [_hash(t, n) for n, t in enumerate(lines[INDEX_LINE:], INDEX_LINE + 1)]
        if not note:
            raise ProofRefused("no blank line and checkpoint", part=PART, line=len(lines))
        first_line = len(lines) + 2
        return cls(
            index=index, proof=tuple(proof), note=Note.parse(note, part=PART, first_line=first_line)
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Verified:
    """What a receipt has proven: the entry is leaf `index` of the tree of `checkpoint`.

    `witnesses`: the policy's witnesses that have cosigned it, with their times.
    """

    index: int
    checkpoint: Checkpoint
    witnesses: tuple[Signed, ...]


def verify(
    receipt_text: bytes | str, entry: bytes, log_key: VerifierKey, policy: Policy | None
) -> Verified:
    """What the receipt proves about exactly these bytes.

    `policy` None: the log's own signature is enough. Raises ProofRefused naming the part and,
    for the receipt, the line.
    """
    if log_key.kind != LOG:
        raise ProofRefused(f"{log_key} is not the key of a log", part="key")
    receipt = Receipt.parse(receipt_text)
    first_line = receipt.note_line
    checkpoint = Checkpoint.parse(receipt.note.text, part=PART, first_line=first_line)
    witnesses = {} if policy is None else {w.key: w for w in policy.witnesses}
    named = {(line.name, line.key_id) for line in receipt.note.signatures}
    if (log_key.name, log_key.key_id) not in named:
        raise NotSigned(receipt.note.absent(log_key, first_line), part=PART)
    signed = receipt.note.verified_by([log_key, *witnesses], part=PART, first_line=first_line)
    cosigned = tuple(found for found in signed if found.key in witnesses)
    if checkpoint.origin != log_key.name:
        reason = f"the origin {checkpoint.origin!r} is not {log_key.name!r}, the log's name"
        raise ProofRefused(reason, part=PART, line=first_line)
    if policy is not None:
        _check_policy(policy, log_key, receipt, cosigned)
    _check_inclusion(receipt, checkpoint, entry)
    return Verified(index=receipt.index, checkpoint=checkpoint, witnesses=cosigned)


def _check_policy(
    policy: Policy, log_key: VerifierKey, receipt: Receipt, cosigned: tuple[Signed, ...]
) -> None:
    if policy.logs and log_key not in {log.key for log in policy.logs}:
        raise ProofRefused(f"{log_key} is not one of its logs", part="policy")
    keys = {found.key for found in cosigned}
    missing = policy.missing(w.name for w in policy.witnesses if w.key in keys)
    if missing:
        others = [w.key for w in policy.witnesses if w.key not in keys]
        absent = [receipt.note.absent(key, receipt.note_line) for key in others]
        hints = [text for text in absent if text.endswith(")")]  # a line that looks like it
        raise NoQuorum("; ".join([f"no quorum: {missing}", *hints]), part=PART)


def _check_inclusion(receipt: Receipt, checkpoint: Checkpoint, entry: bytes) -> None:
    try:
        verify_inclusion(
            leaf_hash(entry), receipt.index, checkpoint.size, receipt.proof, checkpoint.root
        )
    except ProofRefused as error:
        hashes = f"hashes from line {INDEX_LINE + 1} to {INDEX_LINE + len(receipt.proof)}"
        where = f"index in line {INDEX_LINE}, {hashes if receipt.proof else 'no hashes'}"
        raise ProofRefused(f"{error.reason} ({where})", part="inclusion proof") from None


def _hash(text: str, line: int) -> bytes:
    data = read_base64(text, "the hash", part=PART, line=line)
    if len(data) != HASH_BYTES:
        raise ProofRefused(f"the hash has {len(data)} bytes, not 32", part=PART, line=line)
    return data
