"""One call to one agent, as a value."""

from __future__ import annotations

from dataclasses import dataclass

from ledger.model import Agent, AttemptKey, Json

RETRY_AFTER_MAX_S = 3600.0  # an agent may ask to be left alone this long, or its cooldown


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """One call to make."""

    key: AttemptKey
    agent: Agent
    family: str
    payload: Json
    deadline_s: float
