from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from ledger.model import AttemptKey
from ledger.postings import Settled, Standing, TaskRow, payment, plan_settlements
from tests.makers import settlement

TAU = 10_000
CLIENTS = "PQR"
TASKS = ["t0", "t1", "t2", "t3", "t4", "t5"]

ITEMS = st.lists(
    st.tuples(
        st.sampled_from(TASKS), st.integers(1, 3), st.sampled_from(CLIENTS), st.integers(0, 500)
    ),
    max_size=20,
)
ROWS = st.dictionaries(
    st.sampled_from(TASKS),
    st.builds(
        TaskRow,
        attempt=st.integers(1, 3),
        state=st.sampled_from(["INIT", "INIT", "INIT", "COMMITTED", "CANCELLED", "QUARANTINED"]),
        in_flight=st.sampled_from([True, True, True, False]),
    ).map(lambda row: row._replace(in_flight=row.in_flight and row.state == "INIT")),
)
ACCOUNTS = st.fixed_dictionaries(
    {
        f"client:{name}": st.integers(0, 300).flatmap(
            lambda quota: st.builds(
                Standing, balance_ub=st.integers(-quota, 1000), quota_ub=st.just(quota)
            )
        )
        for name in CLIENTS
    }
)


@given(ITEMS, ROWS, ACCOUNTS, st.integers(0, 1_000_000))
def test_settling_a_chunk(
    items: list[tuple[str, int, str, int]],
    rows: dict[str, TaskRow],
    accounts: dict[str, Standing],
    tau_ppm: int,
) -> None:
    chunk = [
        settlement(AttemptKey(task, attempt), payer=f"client:{client}", cost_ub=cost)
        for task, attempt, client, cost in items
    ]
    plan = plan_settlements(chunk, rows, accounts, tau_ppm)
    assert set(plan.outcomes) == {item.key for item in chunk}

    balances = Counter({name: standing.balance_ub for name, standing in accounts.items()})
    for item, postings in plan.payments:
        assert plan.outcomes[item.key] is Settled.PAID
        assert sum(posting.amount_ub for posting in postings) == 0
        assert all(posting.amount_ub for posting in postings)
        moved = {posting.account: posting.amount_ub for posting in postings}
        assert moved.get(item.payer, 0) == -item.cost_ub
        balances.update(moved)
    for name, standing in accounts.items():
        assert balances[name] >= -(standing.quota_ub or 0)

    paid = [item.key.task for item, _ in plan.payments]
    assert len(paid) == len(set(paid))
    for key, outcome in plan.outcomes.items():
        row = rows.get(key.task)
        current = row is not None and row.attempt == key.attempt
        if outcome in (Settled.PAID, Settled.NO_CREDIT):
            assert current
            assert row is not None
            assert row.in_flight
            assert not row.fenced
        elif outcome is Settled.ALREADY:
            assert current
            assert row is not None
            assert row.state == "COMMITTED"
        elif outcome is Settled.NO_BUDGET:
            assert current
            assert row is not None
            assert row.in_flight
            assert row.parent is not None
        elif outcome is Settled.FENCED:
            assert current
            assert row is not None
            assert row.in_flight
            assert row.fenced
        else:
            assert row is None or not current or (not row.in_flight and row.state != "COMMITTED")


@given(ITEMS, ROWS, ACCOUNTS)
def test_a_client_without_credit_never_blocks_another(
    items: list[tuple[str, int, str, int]],
    rows: dict[str, TaskRow],
    accounts: dict[str, Standing],
) -> None:
    """What becomes of Q's settlements does not depend on how much P has."""
    owner = {task: client for task, _, client, _ in items}
    chunk = [
        settlement(AttemptKey(task, attempt), payer=f"client:{owner[task]}", cost_ub=cost)
        for task, attempt, _, cost in items
    ]
    broke = accounts | {"client:P": Standing(balance_ub=0, quota_ub=0)}
    with_p, without_p = (plan_settlements(chunk, rows, known, TAU) for known in (accounts, broke))
    for item in chunk:
        if item.payer != "client:P":
            assert with_p.outcomes[item.key] is without_p.outcomes[item.key]


def test_the_last_credit_can_be_spent_and_no_more() -> None:
    rows = {task: TaskRow(attempt=1, state="INIT", in_flight=True) for task in ("t0", "t1")}
    accounts = {"client:R": Standing(balance_ub=70, quota_ub=30)}
    chunk = [
        settlement(AttemptKey(task, 1), cost_ub=cost) for task, cost in (("t0", 100), ("t1", 1))
    ]
    plan = plan_settlements(chunk, rows, accounts, TAU)
    assert list(plan.outcomes.values()) == [Settled.PAID, Settled.NO_CREDIT]


def test_an_attempt_that_was_put_back_or_aborted_is_not_paid() -> None:
    rows = {"t0": TaskRow(attempt=1, state="INIT", in_flight=False)}
    accounts = {"client:R": Standing(balance_ub=10**9, quota_ub=0)}
    plan = plan_settlements([settlement(AttemptKey("t0", 1))], rows, accounts, TAU)
    assert list(plan.outcomes.values()) == [Settled.STALE]
    assert plan.payments == []


def test_a_free_task_moves_nothing() -> None:
    assert payment(settlement(AttemptKey("t", 1), cost_ub=0), TAU) == []
