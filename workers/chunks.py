"""Tasks in chunks that are accepted together. Row M04."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Final

from ledger.intake import Submission

COUNT_MAX: Final = 1000
BYTES_MAX: Final = 16 << 20  # of their payloads


def chunks(items: Sequence[Submission], count_max: int = COUNT_MAX) -> Iterator[list[Submission]]:
    """The tasks in order, so many at most and of a bounded weight together."""
    chunk: list[Submission] = []
    weight_bytes = 0
    for item in items:
        item_bytes = len(json.dumps(item.payload))
        if chunk and (len(chunk) == count_max or weight_bytes + item_bytes > BYTES_MAX):
            yield chunk
            chunk, weight_bytes = [], 0
        chunk.append(item)
        weight_bytes += item_bytes
    if chunk:
        yield chunk
