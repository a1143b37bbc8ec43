"""Who held a lane when: the checker of C6, on rows of a lane's history."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

Tenure = Mapping[str, Any]


def double_holders(tenures: Iterable[Tenure]) -> list[str]:
    """What is wrong with the tenures of some lanes, as `lanes.history` tells them in any order.

    Of each lane the tokens grow by one from 1; a tenure begins when, or after, the one before has
    ended; all but the newest are over, and say how.
    """
    by_lane: dict[str, list[Tenure]] = defaultdict(list)
    for row in tenures:
        by_lane[row["lane"]].append(row)
    return [
        f"{lane}: {wrong}"
        for lane, rows in by_lane.items()
        for wrong in _lane(sorted(rows, key=lambda row: int(row["token"])))
    ]


def _lane(rows: Sequence[Tenure]) -> Iterable[str]:
    tokens = [row["token"] for row in rows]
    if tokens != list(range(1, len(rows) + 1)):
        yield f"tokens do not grow by one: {tokens}"
    for row in rows[:-1]:
        if row["ended"] is None:
            yield f"token {row['token']} is followed by another, and never ended"
    if rows[-1]["ended"] is not None:
        yield f"token {rows[-1]['token']} has ended, and nobody follows"
    held = [row for row in rows if row["granted_at"] is not None]
    for row in held:
        if row["granted_at"] < row["asked_at"]:
            yield f"token {row['token']} began before it was asked for"
        if row["ended_at"] is not None and row["ended_at"] < row["granted_at"]:
            yield f"token {row['token']} ended before it began"
    for one, next_ in pairwise(held):
        if one["ended_at"] is None or one["ended_at"] > next_["granted_at"]:
            yield f"tokens {one['token']} and {next_['token']} held it at the same time"
