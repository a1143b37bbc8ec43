"""A number of the paper beside ours."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One number of the paper beside the one that came out."""

    step: str
    what: str
    paper: str
    live: str

    @property
    def ok(self) -> bool:
        """Whether they are the same."""
        return self.paper == self.live
