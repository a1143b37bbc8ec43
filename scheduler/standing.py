"""What Redis holds of an agent: its pool and its judgement, as `look.lua` says them. Row M10."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from scheduler.judgement import Judgement
from scheduler.pool import Pool

Standing = tuple[Pool, Judgement]

Y_MT, F = 0, 6  # of a row of look.lua: a pool that a bug left half-made lacks one of them


def decode_standings(agents: Sequence[str], rows: Sequence[Any]) -> dict[str, Standing]:
    """By agent, from its row of `look.lua`; agents without a pool are left out."""
    return {
        agent: _standing(row)
        for agent, row in zip(agents, rows, strict=True)
        if row[Y_MT] is not None and row[F] is not None
    }


def _standing(row: Sequence[str | None]) -> Standing:
    y_mt, refilled, in_flight, available, action, y_max_mt, f, s, judged, samples, version = (
        value or "0" for value in row
    )
    return (
        Pool(
            y_mt=int(y_mt),
            refilled_at_ms=int(refilled),
            in_flight=int(in_flight),
            next_available_ms=int(available),
            last_action_ms=int(action),
            y_max_mt=int(y_max_mt),
        ),
        Judgement(
            f=float(f),
            s=float(s),
            judged_at_ms=int(judged),
            samples=int(samples),
            version=int(version),
        ),
    )
