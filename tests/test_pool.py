from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ledger.errors import InvariantBroken
from scheduler.pool import MT, Pool, cost_ub, gives_back, refill_mt
from tests.makers import agent

K = st.integers(1, 10**9)
Y_MT = st.integers(2, 10**9)
UB = 10**6


@st.composite
def pools(draw: st.DrawFn) -> tuple[int, int, int]:
    """k, y and a size that leaves something of y."""
    y_mt = draw(Y_MT)
    return draw(K), y_mt, draw(st.integers(1, y_mt - 1))


def exact(k: int, y_mt: int, size_mt: int) -> Fraction:
    return (Fraction(k, y_mt - size_mt) - Fraction(k, y_mt)) * UB * MT


@given(pools())
def test_cost_is_the_papers_difference_floored(given_pool: tuple[int, int, int]) -> None:
    k, y_mt, size_mt = given_pool
    wanted = exact(k, y_mt, size_mt)
    assert wanted > 0
    assert cost_ub(k, y_mt, size_mt) == wanted.__floor__()


@given(pools(), st.data())
def test_cost_in_two_steps_is_the_cost_at_once(
    given_pool: tuple[int, int, int], data: st.DataObject
) -> None:
    k, y_mt, size_mt = given_pool
    assume(size_mt > 1)
    first_mt = data.draw(st.integers(1, size_mt - 1))
    steps = cost_ub(k, y_mt, first_mt) + cost_ub(k, y_mt - first_mt, size_mt - first_mt)
    assert 0 <= cost_ub(k, y_mt, size_mt) - steps <= 1


@given(pools(), st.integers(0, 10**6))
def test_cost_falls_with_free_capacity_and_rises_with_size(
    given_pool: tuple[int, int, int], more: int
) -> None:
    k, y_mt, size_mt = given_pool
    assert cost_ub(k, y_mt + more, size_mt) <= cost_ub(k, y_mt, size_mt)
    larger = min(y_mt - 1, size_mt + more)
    assert cost_ub(k, y_mt, larger) >= cost_ub(k, y_mt, size_mt)


@given(pools(), st.integers(1, 1000))
def test_cost_is_convex(given_pool: tuple[int, int, int], step: int) -> None:
    k, y_mt, size_mt = given_pool
    assume(size_mt + step < y_mt)
    assume(size_mt > step)
    below, here, above = (exact(k, y_mt, size_mt + d) for d in (-step, 0, step))
    assert above - here > here - below
    costs = [cost_ub(k, y_mt, size_mt + d) for d in (-step, 0, step)]
    assert costs[2] - costs[1] >= costs[1] - costs[0] - 2


@given(K, Y_MT, st.integers(0, 10**9))
def test_a_pool_is_never_drained(k: int, y_mt: int, beyond: int) -> None:
    with pytest.raises(InvariantBroken):
        cost_ub(k, y_mt, y_mt + beyond)
    with pytest.raises(InvariantBroken):
        cost_ub(k, y_mt, -beyond)


def test_the_papers_figures() -> None:
    assert cost_ub(10**6, 1000 * MT, 100 * MT) == 111_111_111
    stacked = [cost_ub(10**6, (1000 - 100 * n) * MT, 100 * MT) for n in range(5)]
    assert [f"{cost / UB:.2f}" for cost in stacked] == [
        "111.11", "138.89", "178.57", "238.10", "333.33",
    ]  # fmt: skip


@given(
    y_mt=st.integers(0, 1000 * MT),
    rate=st.integers(0, 100),
    elapsed=st.lists(st.integers(0, 10_000), min_size=1, max_size=5),
)
def test_refill_in_steps_is_refill_at_once_and_stops_at_the_top(
    y_mt: int, rate: int, elapsed: list[int]
) -> None:
    limited = agent(y_max=1000, refill_per_s=rate)
    stepped, at_ms = y_mt, 0
    for part_ms in elapsed:
        stepped += refill_mt(Pool(y_mt=stepped, refilled_at_ms=at_ms), limited, at_ms + part_ms)
        at_ms += part_ms
    at_once = y_mt + refill_mt(Pool(y_mt=y_mt, refilled_at_ms=0), limited, at_ms)
    assert stepped == at_once == min(1000 * MT, y_mt + rate * at_ms)


def test_a_clock_that_runs_back_refills_nothing() -> None:
    pool = Pool(y_mt=0, refilled_at_ms=5_000)
    assert refill_mt(pool, agent(refill_per_s=10), 4_000) == 0


def test_a_pool_above_a_lowered_top_is_not_refilled() -> None:
    assert refill_mt(Pool(y_mt=900 * MT, refilled_at_ms=0), agent(y_max=500), 1000) == 0


def test_capacity_comes_back_one_way() -> None:
    assert gives_back(agent(refill_per_s=0))
    assert not gives_back(agent(refill_per_s=1))
