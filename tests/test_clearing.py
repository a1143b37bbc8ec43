from __future__ import annotations

import hashlib
from dataclasses import fields, replace
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.clearing import (
    COMMONS,
    BalancesHash,
    Clearing,
    Group,
    Member,
    due,
    groups,
    top_up_share,
    top_ups,
)
from ledger.errors import BadInput, InvariantBroken
from ledger.money import AMOUNT_MAX_UB, PPM, UB
from ledger.postings import ISSUANCE, Posting
from ledger.proof.entries import POSTINGS_MAX

DAY_MS = 86_400_000
PAPER = Clearing()  # θ⁺ 500, θ⁻ 200, ρ 2 %
AMOUNTS = st.integers(0, 2000 * UB) | st.integers(0, AMOUNT_MAX_UB)
RULES = st.builds(
    Clearing,
    theta_plus_ub=AMOUNTS,
    theta_minus_ub=AMOUNTS,
    rho_plus_ppm=st.integers(0, PPM),
    rho_minus_ppm=st.integers(0, PPM),
    grace_s=st.just(0),
    settled_min=st.just(0),
)


def member(balance_ub: int, quota_ub: int = AMOUNT_MAX_UB, **values: Any) -> Member:
    return Member("agent:A", balance_ub, quota_ub, 0, 10)._replace(**values)


def left(found: Member, rule: Clearing = PAPER, at_ms: int = 7 * DAY_MS) -> int:
    return found.balance_ub - due(found, rule, at_ms)


@pytest.mark.parametrize(
    ("before_ub", "after_ub"),
    [
        (900 * UB, 892 * UB),
        (-260 * UB, -261_200_000),
        (250 * UB, 250 * UB),
        (500 * UB, 500 * UB),
        (-200 * UB, -200 * UB),
        (0, 0),
        (500 * UB + 49, 500 * UB + 49),  # a floor of less than one
        (500 * UB + 50, 500 * UB + 49),
        (-200 * UB - 49, -200 * UB - 49),
        (-200 * UB - 50, -200 * UB - 51),
    ],
)
def test_the_papers_epoch(before_ub: int, after_ub: int) -> None:
    assert left(member(before_ub)) == after_ub


@given(AMOUNTS, RULES)
def test_demurrage_is_the_floor_and_leaves_the_threshold(balance_ub: int, rule: Clearing) -> None:
    found = member(balance_ub)
    over_ub = max(0, balance_ub - rule.theta_plus_ub)
    assert due(found, rule, 0) == Fraction(rule.rho_plus_ppm, PPM) * over_ub // 1
    assert left(found, rule) >= min(balance_ub, rule.theta_plus_ub)


@given(AMOUNTS, AMOUNTS, RULES)
def test_a_charge_is_the_floor_within_the_quota(debt_ub: int, more_ub: int, rule: Clearing) -> None:
    found = member(-debt_ub, quota_ub=debt_ub + more_ub)
    charge_ub = Fraction(rule.rho_minus_ppm, PPM) * max(0, debt_ub - rule.theta_minus_ub) // 1
    assert due(found, rule, 0) == min(charge_ub, more_ub)
    assert left(found, rule) >= -found.quota_ub


@given(st.integers(-AMOUNT_MAX_UB, AMOUNT_MAX_UB), st.integers(0, 3 * UB), RULES)
def test_clearing_never_turns_the_order_of_two_around(low: int, more: int, rule: Clearing) -> None:
    quota_ub = 2 * AMOUNT_MAX_UB
    assert left(member(low, quota_ub), rule) <= left(member(low + more, quota_ub), rule)


@pytest.mark.parametrize(
    ("values", "charged"),
    [
        ({"settled": 10, "opened_ms": 0}, True),
        ({"settled": 9, "opened_ms": 0}, False),
        ({"settled": 10, "opened_ms": 1}, False),
        ({"settled": 0, "opened_ms": 8 * DAY_MS}, False),  # opened by a clock that is ahead
    ],
)
def test_new_accounts_are_spared_the_charge(values: dict[str, int], charged: bool) -> None:
    assert bool(due(member(-260 * UB, **values), PAPER, 7 * DAY_MS)) is charged
    assert due(member(900 * UB, **values), PAPER, 7 * DAY_MS) == 8 * UB


def members(count: int, balance_ub: int = 900 * UB) -> list[Member]:
    return [member(balance_ub)._replace(account=f"agent:{number:05d}") for number in range(count)]


@pytest.mark.parametrize("count", [0, 1, POSTINGS_MAX - 1, POSTINGS_MAX, 3 * POSTINGS_MAX])
def test_groups_hold_all_who_are_due_and_sum_to_zero(count: int) -> None:
    found = list(groups(members(count), PAPER, 0))
    sizes = [len(group.postings) for group in found]
    assert sizes[:-1] == [POSTINGS_MAX] * (len(sizes) - 1)
    assert sum(sizes) == count + len(found)
    for group in found:
        assert group.postings[-1].account == COMMONS
        assert sum(posting.amount_ub for posting in group.postings) == 0
        assert group.demurrage_ub + group.charge_ub == group.postings[-1].amount_ub


def test_a_group_tells_demurrage_from_charge() -> None:
    three = [
        member(900 * UB)._replace(account="agent:A"),
        member(-260 * UB)._replace(account="agent:B"),
        member(250 * UB)._replace(account="agent:C"),
    ]
    [group] = groups(three, PAPER, 7 * DAY_MS)
    pairs = [("agent:A", -8 * UB), ("agent:B", -1_200_000), (COMMONS, 9_200_000)]
    moved = [Posting(*pair) for pair in pairs]
    assert group == Group(moved, 8 * UB, 1_200_000)


@given(st.lists(st.integers(-600 * UB, 1200 * UB), max_size=20), RULES)
def test_groups_take_from_each_what_it_owes(balances_ub: list[int], rule: Clearing) -> None:
    all_of_them = [
        found._replace(balance_ub=balance_ub)
        for found, balance_ub in zip(members(len(balances_ub)), balances_ub, strict=True)
    ]
    owed = [(found.account, -due(found, rule, 0)) for found in all_of_them]
    taken = [tuple(item) for group in groups(all_of_them, rule, 0) for item in group.postings[:-1]]
    assert taken == [pair for pair in owed if pair[1]]


@pytest.mark.parametrize("names", [["b", "a"], ["a", "a"], ["system:burn"]])
def test_accounts_come_sorted_and_without_the_systems(names: list[str]) -> None:
    wrong = [member(0)._replace(account=name) for name in names]
    with pytest.raises(InvariantBroken, match=names[-1]):
        list(groups(wrong, PAPER, 0))


TOP_UP = replace(PAPER, top_up_ub=100, top_up_cap_ub=1000)


@pytest.mark.parametrize(
    ("count", "share_ub"), [(0, 0), (1, 100), (10, 100), (11, 90), (1000, 1), (1001, 0)]
)
def test_the_cap_is_shared_equally(count: int, share_ub: int) -> None:
    assert top_up_share(count, TOP_UP) == share_ub


def test_the_commons_pay_before_issuance() -> None:
    paid = [[tuple(item) for item in group] for group in top_ups(["client:P"], 100, TOP_UP)]
    assert paid == [[("client:P", 100), (COMMONS, -100)]]
    paid = [[tuple(item) for item in group] for group in top_ups(["client:P"], 30, TOP_UP)]
    assert paid == [[("client:P", 100), (COMMONS, -30), (ISSUANCE, -70)]]
    paid = [[tuple(item) for item in group] for group in top_ups(["client:P"], 0, TOP_UP)]
    assert paid == [[("client:P", 100), (ISSUANCE, -100)]]
    assert list(top_ups(["client:P"], 50, PAPER)) == []


@given(st.integers(0, 1500), st.integers(0, 2000), st.integers(0, 5000))
def test_top_ups_stay_below_the_cap(count: int, commons_ub: int, cap_ub: int) -> None:
    rule = replace(TOP_UP, top_up_ub=min(3, cap_ub), top_up_cap_ub=cap_ub)
    names = [f"client:{number:04d}" for number in range(count)]
    found = list(top_ups(names, commons_ub, rule))
    total: dict[str, int] = {}
    for group in found:
        assert len(group) <= POSTINGS_MAX
        assert sum(posting.amount_ub for posting in group) == 0
        for posting in group:
            total[posting.account] = total.get(posting.account, 0) + posting.amount_ub
    given_ub = top_up_share(count, rule) * count
    assert given_ub <= cap_ub
    assert -total.pop(COMMONS, 0) == min(commons_ub, given_ub)
    assert -total.pop(ISSUANCE, 0) == max(0, given_ub - commons_ub)
    assert set(total.values()) <= {top_up_share(count, rule)}
    assert list(total) == (names if given_ub else [])


@pytest.mark.parametrize("names", [["agent:A"], ["client:b", "client:a"], ["client:a"] * 2])
def test_only_clients_are_topped_up_each_once(names: list[str]) -> None:
    with pytest.raises(InvariantBroken, match=names[-1]):
        list(top_ups(names, 0, TOP_UP))


@pytest.mark.parametrize("name", [item.name for item in fields(Clearing)])
@pytest.mark.parametrize("value", [-1, 10**30, 0.5, True, "1"])
def test_parameters_have_bounds(name: str, value: Any) -> None:
    with pytest.raises(BadInput, match=f"^clearing.{name}: "):
        replace(PAPER, **{name: value})


def test_a_top_up_above_its_cap_is_refused() -> None:
    with pytest.raises(BadInput, match=r"^clearing.top_up_ub: more than clearing.top_up_cap_ub"):
        Clearing(top_up_ub=2, top_up_cap_ub=1)


@given(st.dictionaries(st.text("abc:", min_size=1), st.integers(-5, 5)), st.integers(0, 10))
def test_the_hash_of_balances_may_be_made_in_parts(balances: dict[str, int], cut: int) -> None:
    pairs = sorted(balances.items())
    found = BalancesHash()
    found.update(pairs[:cut])
    found.update(iter(pairs[cut:]))
    text = "".join(f"{account} {balance}\n" for account, balance in pairs if balance)
    assert found.hexdigest() == hashlib.sha256(text.encode()).hexdigest()


def test_balances_out_of_order_have_no_hash() -> None:
    found = BalancesHash()
    found.update([("b", 1)])
    for wrong in ([("a", 1)], [("b", 1)], [("d", 1), ("c", 1)]):
        with pytest.raises(InvariantBroken, match="not sorted"):
            found.update(wrong)
