from __future__ import annotations

import math
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.price import choose, effective_price

PRICES = st.lists(st.floats(0, 1e12, allow_nan=False), min_size=1, max_size=20)


@given(st.integers(0, 10**15), st.floats(0, 5), st.floats(0.001, 1))
def test_risk_and_failure_only_raise_the_price(cost_ub: int, f: float, s: float) -> None:
    assert effective_price(cost_ub, f, s) >= cost_ub
    assert effective_price(cost_ub, f + 1, s) >= effective_price(cost_ub, f, s)
    assert effective_price(cost_ub, f, s / 2) >= effective_price(cost_ub, f, s)


def test_the_papers_price_after_a_failure() -> None:
    assert effective_price(111_111_111, 5.0, 0.7) / 1e6 == pytest.approx(952.38, abs=0.005)
    assert effective_price(111_111_111, 5.0, 1.0) / 1e6 == pytest.approx(666.67, abs=0.01)


@given(PRICES, st.floats(0, 1), st.integers(0, 2**32))
def test_choice_stays_near_the_best(prices: list[float], epsilon: float, seed: int) -> None:
    index = choose(prices, epsilon, random.Random(seed))
    assert prices[index] <= min(prices) * (1 + epsilon)
    assert index == choose(prices, epsilon, random.Random(seed))


@pytest.mark.parametrize("price", [0.0, 1.0, 1e12])
@pytest.mark.parametrize("epsilon", [0.0, 0.05])
def test_ties_are_chosen_uniformly(price: float, epsilon: float) -> None:
    rng, draws = random.Random(4), 8_000
    seen = Counter(choose([price] * 4, epsilon, rng) for _ in range(draws))
    chi2 = sum((seen[i] - draws / 4) ** 2 / (draws / 4) for i in range(4))
    assert chi2 < 16.3  # three degrees of freedom, 99.9 %


def test_the_edge_of_the_band_is_e_times_less_likely() -> None:
    rng, draws = random.Random(5), 20_000
    seen = Counter(choose([100.0, 105.0, 106.0], 0.05, rng) for _ in range(draws))
    assert seen[2] == 0
    assert seen[0] / seen[1] == pytest.approx(math.e, rel=0.1)
