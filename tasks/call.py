"""One call to one agent, as a value."""

from __future__ import annotations

from dataclasses import dataclass

from ledger.model import Agent, AttemptKey, Json


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """One call to make."""

    key: AttemptKey
    agent: Agent
    family: str
    payload: Json
    deadline_s: float
