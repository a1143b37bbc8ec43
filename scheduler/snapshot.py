"""An agent's pool and judgement as plain JSON, for the ledger to keep. Pure."""

from __future__ import annotations

from dataclasses import asdict

from ledger.model import Json
from scheduler.judgement import Judgement
from scheduler.pool import Pool


def encode_snapshot(pool: Pool, judgement: Judgement) -> Json:
    """Both as one JSON object."""
    return {"pool": asdict(pool), "judgement": asdict(judgement)}


def decode_snapshot(state: Json) -> tuple[Pool, Judgement]:
    """The inverse of `encode_snapshot`."""
    return Pool(**state["pool"]), Judgement(**state["judgement"])
