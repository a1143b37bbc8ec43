"""Every error Clearlane raises on purpose, under one base.

`retryable` says whether the same call may succeed later without anyone changing anything.
The message is for the person who reads it: the field, the reason, the remedy.
"""

from __future__ import annotations


class ClearlaneError(Exception):
    """Base of all our errors."""

    retryable = False


class BadInput(ClearlaneError):
    """A value that came from outside was refused; nothing was done."""

    def __init__(self, field: str, reason: str, remedy: str) -> None:
        super().__init__(f"{field}: {reason}; {remedy}")
        self.field = field
        self.reason = reason
        self.remedy = remedy


class NotFound(BadInput):
    """What was named does not exist."""


class Conflict(BadInput):
    """The same key was used before with different content, or the state forbids the step."""


class Unavailable(ClearlaneError):
    """A server we depend on does not answer; the same call may succeed later."""

    retryable = True

    def __init__(self, what: str, reason: str, remedy: str) -> None:
        super().__init__(f"{what}: {reason}; {remedy}")
        self.what = what


class NotStorable(ClearlaneError):
    """PostgreSQL refuses what it was given to keep. Final: it would refuse it again."""


class InvariantBroken(ClearlaneError):
    """A pure function was asked for something its contract excludes: a bug of ours."""


class LaneLost(ClearlaneError):
    """The lane has another holder by now. Final: a token is never valid again."""

    def __init__(self, lane: str, reason: str) -> None:
        super().__init__(f"lane {lane}: {reason}; see `clearlane lanes history {lane}`")
        self.lane = lane
