"""Messages that should not be: torn, foreign, and from versions that wrote them otherwise."""

from __future__ import annotations

import random
import uuid
from typing import Any

from tasks.messages import CHUNK_MAX


def garbled(message: Any, rng: random.Random) -> Any:
    """A message in which something is wrong; what is whole in it may still be done."""
    task, attempt = message[0] if message else (str(uuid.UUID(int=1)), 1)
    broken: list[Any] = [
        None,
        1.5,
        "saga",
        {},
        [],
        [[]],
        [None],
        [task, attempt],
        [[attempt, task]],
        [[task, attempt, "more"]],
        [[task, str(attempt)]],
        [[task, True]],
        [[task, 0]],
        [[task, -attempt]],
        [[task, 2**40]],
        [[task, float(attempt)]],
        [[task, None]],
        [["not a uuid", attempt]],
        [[str(uuid.UUID(int=7)), 1]],
        [[task.upper(), attempt]],
        [[task, attempt + 1]],
        [[task, attempt]] * (CHUNK_MAX + 1),
    ]
    item = rng.choice(broken)
    if isinstance(item, list) and item and isinstance(message, list) and rng.random() < 0.5:
        return [*message, *item][:CHUNK_MAX]
    return item


def downgraded(message: Any, rng: random.Random) -> Any:
    """The same keys in the shape of another version, which this one has never promised to read."""
    shapes: list[Any] = [
        {"version": 2, "attempts": message},
        [{"task": task, "attempt": attempt} for task, attempt in message],
        [f"{task}:{attempt}" for task, attempt in message],
        [task for task, _ in message],
        [[task, attempt, {"lease_s": 5}] for task, attempt in message],
    ]
    return rng.choice(shapes)
