"""A number of the paper beside ours, and what is done to get the next ones."""

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


@dataclass(frozen=True, kw_only=True, slots=True)
class Doing:
    """What is being done, in words; the next numbers take a while."""

    words: str
