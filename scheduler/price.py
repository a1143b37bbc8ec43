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
    `prices` must not be empty; few of them should lie outside the band.
    """
    lowest = min(prices)
    edge = lowest * (1 + epsilon)
    scale = edge - lowest or 1.0
    # By rejection: with thousands of near-ties a weight for each would cost more than the plan.
    while True:
        index = int(rng.random() * len(prices))
        if prices[index] <= edge and rng.random() < math.exp((lowest - prices[index]) / scale):
            return index
