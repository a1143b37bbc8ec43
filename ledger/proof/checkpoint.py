"""What a log commits to at one size (c2sp.org/tlog-checkpoint): the text of a signed note."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

from ledger.proof.errors import ProofRefused
from ledger.proof.merkle import EMPTY_ROOT, HASH_BYTES
from ledger.proof.text import read_base64, read_number, show_base64

LINES: Final = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """The log named `origin` had `size` leaves and this root."""

    origin: str
    size: int
    root: bytes

    def body(self) -> str:
        """The text that is signed: three lines."""
        return f"{self.origin}\n{self.size}\n{show_base64(self.root)}\n"

    @classmethod
    def parse(cls, body: str, *, part: str = "checkpoint", first_line: int = 1) -> Self:
        """The checkpoint of a note's text.

        Raises ProofRefused also for extension lines: nobody could audit what they say.
        """
        lines = body.split("\n")
        if len(lines) != LINES + 1 or lines[-1]:
            reason = f"{body.count(chr(10))} lines, not origin, size and root"
            raise ProofRefused(reason, part=part, line=first_line)
        origin, size_text, root_text, _ = lines
        if not origin:
            raise ProofRefused("the origin is empty", part=part, line=first_line)
        size = read_number(size_text, "the size", part=part, line=first_line + 1)
        root = read_base64(root_text, "the root", part=part, line=first_line + 2)
        if len(root) != HASH_BYTES:
            reason = f"the root has {len(root)} bytes, not {HASH_BYTES}"
            raise ProofRefused(reason, part=part, line=first_line + 2)
        if (root == EMPTY_ROOT) != (size == 0):
            reason = f"{root_text} cannot be the root of {size} leaves"
            raise ProofRefused(reason, part=part, line=first_line + 2)
        return cls(origin=origin, size=size, root=root)
