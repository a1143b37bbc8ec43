"""What a section of the bench is, and what it gets to work with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Trial = dict[str, Any]
"""What one trial of a section measured, as JSON."""

Figures = dict[str, Any]
"""What the trials of a section come to: medians, as JSON."""


class LeftOutError(Exception):
    """A section that cannot be measured here; the text says why, for people."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """A table before anyone knows how it will be shown."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Bench:
    """One run: the servers all sections share, and how much to measure.

    place: where logs go. peers: the interpreter of the peers' environment. profile: a process of
    ours and the file that gets its cProfile.
    """

    database_url: str
    redis_url: str
    place: Path
    peers: Path
    pgledger: Path | None
    profile: tuple[str, Path] | None
    quick: bool
    say: Callable[[str], None]

    def size(self, full: int, quick: int) -> int:
        """How much of something: enough to mean something, or enough to see that it runs."""
        return quick if self.quick else full

    def require_peers(self) -> Path:
        """The peers' interpreter. Raises LeftOutError when it was not installed."""
        if not self.peers.exists():
            raise LeftOutError(f"there is no {self.peers.parents[1].name}: run `make bench-peers`")
        return self.peers


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """One thing to measure. Sections of a run take turns, one trial each.

    measure: one trial, given its number from 1. summarise, grids: pure.
    """

    name: str
    about: str  # one line
    measure: Callable[[Bench, int], Trial]
    summarise: Callable[[Sequence[Trial]], Figures]
    grids: Callable[[Figures], Sequence[Grid]]
    notes: Sequence[str]
    trials: int = 3
    long: bool = False


def by_name(trials: Sequence[Trial], key: str) -> Mapping[str, list[Any]]:
    """The values under `key`, which is a mapping in every trial, collected by its keys."""
    found: dict[str, list[Any]] = {}
    for trial in trials:
        for name, value in trial[key].items():
            found.setdefault(name, []).append(value)
    return found
