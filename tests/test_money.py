from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.errors import BadInput
from ledger.money import AMOUNT_MAX_UB, PPM, parse_b, show_b, split


@given(st.integers(0, AMOUNT_MAX_UB), st.integers(0, PPM))
def test_a_split_is_the_payment(payment_ub: int, tau_ppm: int) -> None:
    shares = split(payment_ub, tau_ppm)
    assert shares.burn_ub + shares.agent_ub == payment_ub
    assert min(shares.burn_ub, shares.agent_ub) >= 0
    assert 0 <= payment_ub * tau_ppm - shares.burn_ub * PPM < PPM


def test_the_papers_payment() -> None:
    shares = split(111_111_111, 10_000)
    assert (shares.burn_ub, shares.agent_ub) == (1_111_111, 110_000_000)


@given(st.integers(0, AMOUNT_MAX_UB))
def test_what_is_shown_is_read_back(amount_ub: int) -> None:
    assert parse_b("x", show_b(amount_ub)) == amount_ub


@given(st.integers(1, 10**18))
def test_a_negative_amount_is_its_opposite_with_a_sign(amount_ub: int) -> None:
    assert show_b(-amount_ub) == f"-{show_b(amount_ub)}"


def test_shown_amounts() -> None:
    assert show_b(1_888_888_889) == "1888.888889"
    assert show_b(-1) == "-0.000001"
    assert show_b(0) == "0.000000"
    assert parse_b("mint", "2000") == 2_000_000_000
    assert parse_b("mint", "0.01") == 10_000


@pytest.mark.parametrize(
    "text", ["", "x", "1,5", "-1", "0.0000001", "9000000001", "NaN", "sNaN", "Infinity", "--1"]
)
def test_other_amounts_are_refused_by_field(text: str) -> None:
    with pytest.raises(BadInput, match=r"^quota: ") as refused:
        parse_b("quota", text)
    assert refused.value.field == "quota"


@pytest.mark.parametrize(
    "text",
    ["1e999999999", "1e-99999999", f"1.{'0' * 30}1", "9" * 5000, "1e3", "1_000", " 1", "1\n", "١"],
)
def test_what_a_number_parser_would_round_or_guess_is_refused(text: str) -> None:
    with pytest.raises(BadInput):
        parse_b("quota", text)
