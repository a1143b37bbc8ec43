from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.model import Routing
from scheduler.judgement import Adjustment, Judgement, QualitySample, RiskJump, adjust, premium
from scheduler.price import effective_price

ROUTING = Routing()
CHANGES = st.one_of(
    st.builds(RiskJump, delta=st.floats(-10, 10)),
    st.builds(QualitySample, passed=st.booleans(), weight=st.floats(-1, 2)),
)


@given(
    st.lists(st.tuples(st.lists(CHANGES, max_size=4), st.integers(-1000, 10_000)), max_size=30),
    st.floats(0, 1),
)
def test_risk_is_capped_and_quality_stays_a_share(
    history: list[tuple[list[Adjustment], int]], alpha: float
) -> None:
    routing, judged, now_ms = Routing(alpha=alpha), Judgement(), 0
    for changes, step_ms in history:
        now_ms += step_ms
        after = adjust(judged, changes, routing, now_ms)
        assert 0 <= after.f <= routing.f_max
        assert 0 < after.s <= 1
        assert after.version == judged.version + 1
        assert after.judged_at_ms >= judged.judged_at_ms
        judged = after


@given(st.floats(0, 5), st.lists(st.integers(0, 100_000), min_size=1, max_size=6))
def test_risk_decays_by_the_exact_exponential_however_often_it_is_read(
    f: float, steps_ms: list[int]
) -> None:
    judged, now_ms = Judgement(f=f), 0
    for step_ms in steps_ms:
        now_ms += step_ms
        judged = adjust(judged, [], ROUTING, now_ms)
    wanted = f * math.exp(-ROUTING.lambda_per_s * now_ms / 1000)
    assert judged.f == pytest.approx(wanted, rel=1e-9)
    assert premium(Judgement(f=f), ROUTING, now_ms) == pytest.approx(wanted, rel=1e-12)


def test_a_clock_that_runs_back_does_not_raise_risk() -> None:
    assert premium(Judgement(f=1.0, judged_at_ms=5_000), ROUTING, 1_000) == 1.0


def test_the_papers_failure() -> None:
    after = adjust(
        Judgement(), [RiskJump(delta=ROUTING.delta_f), QualitySample(passed=False)], ROUTING, 0
    )
    assert (after.f, after.samples) == (5.0, 1)
    assert after.s == pytest.approx(0.7)
    assert effective_price(111_111_111, after.f, after.s) / 1e6 == pytest.approx(952.38, abs=0.005)
    again = adjust(after, [RiskJump(delta=ROUTING.delta_f)], ROUTING, 0)
    assert again.f == ROUTING.f_max


def test_a_sample_without_weight_does_not_count() -> None:
    after = adjust(Judgement(s=0.5), [QualitySample(passed=True, weight=0.0)], ROUTING, 0)
    assert (after.s, after.samples) == (0.5, 0)


def test_no_adjustment_makes_risk_negative() -> None:
    assert adjust(Judgement(), [RiskJump(delta=-2.0)], ROUTING, 0).f >= 0
