"""An agent's pool and judgement as plain JSON, for the ledger to keep. Pure."""

from __future__ import annotations

from dataclasses import fields

from ledger.model import Json
from scheduler.judgement import Judgement
from scheduler.pool import Pool

_POOL = tuple(item.name for item in fields(Pool))
_JUDGEMENT = tuple(item.name for item in fields(Judgement))


def encode_snapshot(pool: Pool, judgement: Judgement) -> Json:
    """Both as one JSON object."""
    return {
        "pool": {name: getattr(pool, name) for name in _POOL},
        "judgement": {name: getattr(judgement, name) for name in _JUDGEMENT},
    }


def decode_snapshot(state: Json) -> tuple[Pool, Judgement]:
    """The inverse of `encode_snapshot`."""
    return Pool(**state["pool"]), Judgement(**state["judgement"])
