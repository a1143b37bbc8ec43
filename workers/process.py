"""One operating system process as a value: what to run, when it counts as ready, how to end it."""

from __future__ import annotations

import signal
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

Ready = Callable[[], Coroutine[Any, Any, str | None]]
"""One try of a real request: None when it was answered, else why not, in one line."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Process:
    """A process the supervisor starts, watches, restarts and stops."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(repr=False)
    user: str | None = None  # None: whoever runs the supervisor
    ready: Ready | None = None  # None: ready when it has lived for a moment
    ready_timeout_s: float = 60.0
    settle_s: float = 0.5  # how long it has to live to count as ready without a check
    clear: Callable[[], None] | None = None
    """Ends what an earlier incarnation left; in a thread, before each start and after a kill."""
    stop_signal: int = signal.SIGTERM
    stop_timeout_s: float = 15.0
