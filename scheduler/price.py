"""Price as credit: one number that rises with congestion, risk and failure.

Paper section 3.5, row M11. Pure.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence


def effective_price(cost_ub: int, f: float, s: float) -> float:
    """P = cost * (1 + f) / s, in micro-credits. Steers routing; the payment stays `cost_ub`."""
    return cost_ub * (1 + f) / s


def choose(prices: Sequence[float], epsilon: float, rng: random.Random) -> int:
    """Index of the price to take: softmin among those within (1 + epsilon) of the lowest.

    Equal prices are equally likely; a price at the edge of the band is e times less likely
    than the lowest. Spreading near-ties keeps one agent from being locked in (appendix A).
    `prices` must not be empty.
    """
    lowest = min(prices)
    edge = lowest * (1 + epsilon)
    near = [index for index, price in enumerate(prices) if price <= edge]
    if len(near) == 1:
        return near[0]
    scale = edge - lowest or 1.0
    weights = [math.exp((lowest - prices[index]) / scale) for index in near]
    return rng.choices(near, weights)[0]
