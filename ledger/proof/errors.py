"""The one refusal of everything that is checked without trusting its sender."""

from __future__ import annotations

from ledger.errors import ClearlaneError


class ProofRefused(ClearlaneError):
    """Something does not prove what it claims. Final: the same bytes are refused again.

    `part` is what was refused ("receipt", "checkpoint", "policy" …), `line` its line, counted
    from 1 in the text that was given, where there is one.
    """

    def __init__(self, reason: str, *, part: str = "", line: int | None = None) -> None:
        where = f"{part or 'text'}, line {line}" if line is not None else part
        super().__init__(f"{where}: {reason}" if where else reason)
        self.reason = reason
        self.part = part
        self.line = line
