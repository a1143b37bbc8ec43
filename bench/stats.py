"""Arithmetic of the bench: quantiles, arrivals, growth. Pure."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from statistics import median


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]


def latency(trials: Sequence[Sequence[float]]) -> dict[str, float]:
    """Median over the trials of each trial's p50 and p99, in the values' unit."""
    return {
        "p50_ms": median(quantile(values, 0.50) for values in trials),
        "p99_ms": median(quantile(values, 0.99) for values in trials),
    }


def drift(values: Sequence[float]) -> float:
    """Median of the last third over that of the first, in the order of time; 1 when steady."""
    third = max(1, len(values) // 3)
    return median(values[-third:]) / median(values[:third])


def poisson(per_s: float, span_s: float, seed: int) -> list[float]:
    """Instants of arrivals, in seconds from 0 to `span_s`, independent of each other."""
    rng = random.Random(seed)
    found: list[float] = []
    at_s = rng.expovariate(per_s)
    while at_s < span_s:
        found.append(at_s)
        at_s += rng.expovariate(per_s)
    return found


def due(arrivals_s: Sequence[float], first: int, now_s: float, most: int) -> int:
    """How many arrivals from index `first` have come by `now_s`, at most `most`."""
    count = 0
    while count < most and first + count < len(arrivals_s) and arrivals_s[first + count] <= now_s:
        count += 1
    return count


def medians(trials: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The median of each key; a trial without it had none of it."""
    names = dict.fromkeys(name for trial in trials for name in trial)
    return {name: median(trial.get(name, 0.0) for trial in trials) for name in names}
