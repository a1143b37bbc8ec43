"""What a check found: the thing, how it stands, and what to do."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARN = "warn"  # it works, and will not always
    FAIL = "fail"  # it does not work, or not safely
    SKIPPED = "skipped"  # there was nothing to look at; `found` says why


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One line of the doctor's report. `remedy` is empty when there is nothing to do."""

    check: str
    level: Level
    found: str
    remedy: str = ""


def ok(check: str, found: str) -> Finding:
    """Nothing to do."""
    return Finding(check=check, level=Level.OK, found=found)


def warn(check: str, found: str, remedy: str) -> Finding:
    """It works, and will not always."""
    return Finding(check=check, level=Level.WARN, found=found, remedy=remedy)


def fail(check: str, found: str, remedy: str) -> Finding:
    """It does not work, or not safely."""
    return Finding(check=check, level=Level.FAIL, found=found, remedy=remedy)


def skipped(check: str, found: str) -> Finding:
    """There was nothing to look at."""
    return Finding(check=check, level=Level.SKIPPED, found=found)
