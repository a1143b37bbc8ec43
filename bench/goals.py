"""The goals, and what a run says about each. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

All = Mapping[str, Mapping[str, Any]]
"""The figures of each section that was measured, by its name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Goal:
    """A ratio that has to be at least `least`, or at most `most`.

    needs: the sections it is computed from.
    """

    name: str
    needs: tuple[str, ...]
    ratio: Callable[[All], float | None]  # None: its peer was left out
    least: float | None = None
    most: float | None = None

    @property
    def wanted(self) -> str:
        """The bound as people write it."""
        return f"≥ {self.least:,g}" if self.least is not None else f"≤ {self.most:,g}"

    def verdict(self, ratio: float) -> str:
        """`pass` or `FAIL`."""
        low = self.least is not None and ratio < self.least
        high = self.most is not None and ratio > self.most
        return "FAIL" if low or high else "pass"


def _over_pgledger(settling: Mapping[str, Any]) -> float | None:
    theirs: float | None = settling["transfers_per_s"]
    return None if theirs is None else float(settling["settlements_per_s"]) / theirs


def _calls_over_starts(row: Mapping[str, Any]) -> float:
    return float((row["starts"] + row["refused"]) / row["starts"])


GOALS = (
    Goal(
        name="backlog: settled tasks/s over bare Celery chains of four/s, best pool",
        needs=("backlog", "bare"),
        ratio=lambda s: s["backlog"]["per_s"] / s["bare"]["chains_per_s"],
        least=10,
    ),
    Goal(
        name="backlog: settled tasks/s over DBOS workflows of four/s, best way",
        needs=("backlog", "dbos"),
        ratio=lambda s: s["backlog"]["per_s"] / s["dbos"]["per_s"],
        least=25,
    ),
    Goal(
        name="backlog: settled tasks/s over Dramatiq pipelines of four/s",
        needs=("backlog", "dramatiq"),
        ratio=lambda s: s["backlog"]["per_s"] / s["dramatiq"]["pipeline_per_s"],
        least=5,
    ),
    Goal(
        name="one alone: p50 over that of the quickest bare chain",
        needs=("backlog", "bare"),
        ratio=lambda s: s["backlog"]["alone"]["p50_ms"] / s["bare"]["p50_ms"],
        most=3,
    ),
    Goal(
        name="one alone: p99 over that of the quickest bare chain",
        needs=("backlog", "bare"),
        ratio=lambda s: s["backlog"]["alone"]["p99_ms"] / s["bare"]["p99_ms"],
        most=4,
    ),
    Goal(
        name="HTTP agents: settled tasks/s over bare chains/s that make the same call",
        needs=("http",),
        ratio=lambda s: s["http"]["per_s"] / s["http"]["chains_per_s"],
        least=2,
    ),
    Goal(
        name="half of saturation: p99 over p50",
        needs=("load",),
        ratio=lambda s: s["load"]["half"]["p99_ms"] / s["load"]["half"]["p50_ms"],
        most=5,
    ),
    Goal(
        name="half of saturation: drift of p50, else a queue grew and the line above is void",
        needs=("load",),
        ratio=lambda s: s["load"]["half"]["drift"],
        most=2,
    ),
    Goal(
        name="scaling: settled tasks/s on two cores over one",
        needs=("cores",),
        ratio=lambda s: s["cores"]["two"]["per_s"] / s["cores"]["one"]["per_s"],
        least=1.7,
    ),
    Goal(
        name="scaling: CPU of a task with 10,000 agents over 10",
        needs=("fleet",),
        ratio=lambda s: s["fleet"]["growth"],
        most=1.3,
    ),
    Goal(
        name="lanes: p99 of taking one with nothing in flight over 100 ms",
        needs=("lanes",),
        ratio=lambda s: s["lanes"]["worst_ms"] / 100,
        most=1,
    ),
    Goal(
        name="windows: starts over possible starts, 32 agents with a cooldown",
        needs=("windows",),
        ratio=lambda s: s["windows"]["rows"]["Clearlane"]["share"],
        least=0.99,
    ),
    Goal(
        name="windows: calls over those that were not refused",
        needs=("windows",),
        ratio=lambda s: _calls_over_starts(s["windows"]["rows"]["Clearlane"]),
        most=1,
    ),
    Goal(
        name="settlements/s by chunks of 64 over pgledger transfers/s by arrays of 64",
        needs=("settling",),
        ratio=lambda s: _over_pgledger(s["settling"]),
        least=3,
    ),
    Goal(
        name="log: settlements/s by chunks of 64 with it over without",
        needs=("log",),
        ratio=lambda s: s["log"]["chunks"]["64"]["kept"],
        least=0.85,
    ),
    Goal(
        name="replay: leaves/s that a replica checks and keeps",
        needs=("replay",),
        ratio=lambda s: s["replay"]["per_s"],
        least=50_000,
    ),
    Goal(
        name="scaling: cost of a settlement, large ledger over small",
        needs=("entries",),
        ratio=lambda s: s["entries"]["growth"],
        most=1.3,
    ),
    Goal(
        name="memory: after the last task over after the warm-up, the process that grew most",
        needs=("memory",),
        ratio=lambda s: s["memory"]["growth"],
        most=1.1,
    ),
    Goal(
        name="waiting tasks: keys in Valkey after over before",
        needs=("waiting",),
        ratio=lambda s: s["waiting"]["keys_after"] / max(1, s["waiting"]["keys_before"]),
        most=1,
    ),
    Goal(
        name="waiting tasks: CPU of a task, many waiting over few",
        needs=("waiting",),
        ratio=lambda s: s["waiting"]["growth"],
        most=1.3,
    ),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """A goal beside what was measured."""

    name: str
    wanted: str
    ratio: float
    verdict: str


def judge(figures: All) -> list[Verdict]:
    """Every goal for which all that it compares was measured."""
    found = []
    for goal in GOALS:
        if not all(name in figures for name in goal.needs):
            continue
        ratio = goal.ratio(figures)
        if ratio is not None:
            verdict = goal.verdict(ratio)
            found.append(Verdict(name=goal.name, wanted=goal.wanted, ratio=ratio, verdict=verdict))
    return found
