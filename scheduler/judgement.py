"""What we think of an agent: its risk premium f and its quality s.

Paper sections 5.2 and 5.3, rows M13 and M14. Pure. f and s steer routing only: a risky agent
is avoided, never paid more.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from ledger.model import Routing

S_MIN = 0.001  # s stays in (0, 1]: a price divides by it


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """f >= 0 as of `judged_at_ms`; s in (0, 1]; `version` grows by one at each change."""

    f: float = 0.0
    s: float = 1.0
    judged_at_ms: int = 0
    samples: int = 0
    version: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class RiskJump:
    """A severe failure: f rises by `delta`, up to the installation's f_max."""

    delta: float


@dataclass(frozen=True, kw_only=True, slots=True)
class QualitySample:
    """One auditable verdict. `weight` 0 does not count (related client), 1 counts fully."""

    passed: bool
    weight: float = 1.0


Adjustment = RiskJump | QualitySample


def premium(judgement: Judgement, routing: Routing, now_ms: int) -> float:
    """f at `now_ms`: it decays by e^(-lambda * seconds) while nothing severe happens."""
    elapsed_s = max(0, now_ms - judgement.judged_at_ms) / 1000
    return judgement.f * math.exp(-routing.lambda_per_s * elapsed_s)


def adjust(
    judgement: Judgement, adjustments: Iterable[Adjustment], routing: Routing, now_ms: int
) -> Judgement:
    """Apply adjustments in order at `now_ms`. The version grows by one for all of them."""
    f, s, samples = premium(judgement, routing, now_ms), judgement.s, judgement.samples
    for change in adjustments:
        match change:
            case RiskJump(delta=delta):
                f = min(routing.f_max, max(0.0, f + delta))
            case QualitySample(passed=passed, weight=weight):
                alpha = routing.alpha * min(1.0, max(0.0, weight))
                s = max(S_MIN, (1 - alpha) * s + alpha * passed)
                samples += 1 if weight > 0 else 0
    return replace(
        judgement,
        f=f,
        s=s,
        samples=samples,
        judged_at_ms=max(now_ms, judgement.judged_at_ms),
        version=judgement.version + 1,
    )
