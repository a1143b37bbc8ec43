"""When a dead process may start again: a budget and a growing pause, so that nothing spirals.

Pure: times are arguments. Row M41.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class RestartPolicy:
    """How often one process may start, and how long it pauses in between."""

    budget: int = 5  # starts within the window, the first one included
    window_s: float = 600.0
    first_s: float = 10.0  # pause before the second restart; doubles with each further one
    max_s: float = 300.0
    stopped_max_s: float = 60.0  # a process that a signal has stopped for so long is killed


def next_start(history: Sequence[float], now: float, policy: RestartPolicy) -> float | None:
    """Seconds to wait before starting again, or None: give up, somebody has to look.

    `history` are the times of all starts so far, on the clock of `now`. The first restart within
    the window is immediate: one crash is an accident, two are a pattern.
    """
    starts = sum(1 for start in history if now - start < policy.window_s)
    if starts >= policy.budget:
        return None
    if starts <= 1:
        return 0.0
    # The exponent is capped only to stay a float; the pause itself is capped by the policy.
    return min(policy.first_s * 2.0 ** min(starts - 2, 64), policy.max_s)
