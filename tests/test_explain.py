"""What is said of each agent is what the router does: one copy of each rule."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.model import Agent, Family, Routing, Wait, Work
from scheduler.explain import Obstacle, Opinion, first_choice, free_mt, opinions
from scheduler.judgement import Judgement
from scheduler.pool import MT, Pool, cost_ub
from scheduler.router import Board, Quote, Seat, plan
from tests.makers import agent, family, work

NOW_MS = 1_000_000
RICH = 10**15


def board(*pairs: tuple[Agent, dict[str, Any]], spendable_ub: int = RICH, **values: Any) -> Board:
    """One seat for each (agent, what its pool holds; `f` and `s` of its judgement)."""
    routing, seats = values.pop("routing", Routing()), {}
    for item, given_pool in pairs:
        held = dict(given_pool)
        judged = Judgement(judged_at_ms=NOW_MS, f=held.pop("f", 0.0), s=held.pop("s", 1.0))
        pool = Pool(**{"y_mt": item.y_max * MT, "refilled_at_ms": NOW_MS, **held})
        seats[item.id] = Seat.open(item, pool, judged, routing, NOW_MS)
    return Board(
        seats=seats,
        balance_ub={"client:R": spendable_ub},
        spendable_ub={"client:R": spendable_ub},
        families={"f": values.pop("family", family())},
        routing=routing,
        now_ms=NOW_MS,
        **values,
    )


def only(on: Board, asked: Work | None = None) -> Opinion:
    return opinions(asked or work(), on)[0]


PLANTED: list[tuple[Obstacle, dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    (Obstacle.SUSPENDED, {"suspended": True}, {}, {}),
    (Obstacle.LANE, {"lane": "mint"}, {}, {}),
    (Obstacle.TOOLS, {}, {}, {"family": family(tools=frozenset({"camera"}))}),
    (Obstacle.DOMAIN, {}, {}, {"family": family(domain="secret")}),
    (Obstacle.REGION, {"region": "us"}, {}, {"family": family(region="eu")}),
    (Obstacle.TOO_SMALL, {"y_max": 100}, {}, {}),
    (Obstacle.RESTING, {}, {"next_available_ms": NOW_MS + 9_000}, {}),
    (Obstacle.NO_SLOT, {"slots": 2}, {"in_flight": 2}, {}),
    (Obstacle.FULL, {}, {"y_mt": 100 * MT}, {}),
    (Obstacle.TOO_DEAR, {}, {"y_mt": 200 * MT}, {"routing": Routing(ceiling=2.0)}),
    (Obstacle.VETOED, {}, {}, {"veto": lambda *_: True}),
    (Obstacle.CREDIT, {}, {}, {"spendable_ub": 1}),
]


@pytest.mark.parametrize("planted", PLANTED, ids=lambda planted: str(planted[0]))
def test_each_obstacle_alone_is_found_alone(planted: Any) -> None:
    obstacle, of_agent, of_pool, of_board = planted
    found = only(board((agent(**of_agent), of_pool), **of_board))
    assert found.obstacles == (obstacle,)


def test_several_obstacles_are_all_found() -> None:
    stuck = (agent(suspended=True, slots=1), {"in_flight": 1, "next_available_ms": NOW_MS + 5})
    found = only(board(stuck, spendable_ub=1, veto=lambda *_: True))
    assert set(found.obstacles) == {
        Obstacle.SUSPENDED, Obstacle.RESTING, Obstacle.NO_SLOT, Obstacle.VETOED, Obstacle.CREDIT,
    }  # fmt: skip


def test_who_failed_it_sits_out_only_while_there_is_someone_else() -> None:
    asked = work(avoid="A")
    assert only(board((agent(), {})), asked).obstacles == ()
    pair = opinions(asked, board((agent(), {}), (agent("B"), {"in_flight": 10})))
    assert [item.obstacles for item in pair] == [(Obstacle.AVOIDED,), (Obstacle.NO_SLOT,)]


def test_when_capacity_refills() -> None:
    found = only(board((agent(refill_per_s=10), {"y_mt": 50 * MT})))
    assert found.obstacles == (Obstacle.FULL,)
    assert found.price is None
    assert found.opens_ms == NOW_MS + 5_001  # 50 tokens and a milli-token, at 10 a second


def test_the_parts_of_a_price() -> None:
    free, held = opinions(
        work(), board((agent(), {}), (agent("B"), {"y_mt": 900 * MT, "f": 5.0, "s": 0.7}))
    )
    assert free.price is not None
    assert held.price is not None
    assert (free.price.idle_ub, free.price.cost_ub, free.price.congestion) == (
        111_111_111, 111_111_111, 1.0,
    )  # fmt: skip
    assert (held.price.idle_ub, held.price.cost_ub) == (111_111_111, 138_888_888)
    assert held.price.price_ub == pytest.approx(138_888_888 * 6 / 0.7)
    assert first_choice([held, free]) is free
    assert first_choice([]) is None


AGENTS = st.lists(
    st.tuples(
        st.integers(1, 2_000),  # y_max
        st.integers(0, 3),  # slots
        st.integers(1, 10**7),  # k
        st.sampled_from([0, 5]),  # refill
        st.integers(0, 3),  # in flight
        st.floats(0, 1),  # share of y left
        st.sampled_from([0, NOW_MS + 1]),  # rests
        st.booleans(),  # suspended
        st.sampled_from(["", "eu"]),
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=200, deadline=None)
@given(
    AGENTS,
    st.integers(1, 600),
    st.sampled_from([None, "a0", "a1"]),
    st.integers(0, 10**9),
    st.sampled_from([None, 1.5]),
    st.booleans(),
)
def test_what_is_said_is_what_the_router_does(  # noqa: PLR0917 - Hypothesis gives them in order
    given_agents: list[Any],
    size: int,
    avoid: str | None,
    spendable_ub: int,
    ceiling: float | None,
    vetoes: bool,
) -> None:
    pairs = []
    for n, (y_max, slots, k, refill, flying, left, rests, suspended, region) in enumerate(
        given_agents
    ):
        item = agent(
            f"a{n}", y_max=y_max, slots=slots, k=k, refill_per_s=refill, suspended=suspended,
            region=region,
        )  # fmt: skip
        y_mt = int(y_max * MT * left)
        pairs.append((item, {"y_mt": y_mt, "in_flight": flying, "next_available_ms": rests}))

    def new() -> Board:
        return board(
            *pairs,
            spendable_ub=spendable_ub,
            family=family(region="eu"),
            routing=Routing(ceiling=ceiling, epsilon=0.0),
            veto=(lambda *pairing: pairing[2] % 2 == 1) if vetoes else None,
        )

    asked = work(size=size, avoid=avoid)
    found = opinions(asked, new())
    free = {item.agent.id: item for item in found if not item.obstacles}
    (decided,) = plan([asked], new(), random.Random(1))
    if isinstance(decided, Quote):
        mine = free[decided.agent.id].price
        assert mine is not None
        assert (mine.cost_ub, mine.price_ub) == (decided.cost_ub, decided.price_ub)
        first = first_choice(found)
        assert first is not None
        assert first.price is not None
        assert first.price.price_ub == decided.price_ub
    else:
        assert not free
        resting = {Obstacle.RESTING}
        if decided.wait is Wait.COOLDOWN:
            assert any(resting <= set(item.obstacles) for item in found)


@given(st.integers(1, 900), st.integers(901, 1_000), st.integers(10**5, 10**8))
def test_what_was_paid_tells_how_much_was_free(size: int, free: int, k: int) -> None:
    payer = agent(k=k)
    paid_ub = cost_ub(k, free * MT, size * MT)
    found = free_mt(payer, size, paid_ub)
    assert found is not None
    assert cost_ub(k, found, size * MT) == paid_ub
    assert free_mt(payer, size, cost_ub(k, 1000 * MT, size * MT) - 1) is None


def test_the_families_of_a_board_are_left_alone() -> None:
    kind: Family = family(tools=frozenset({"camera"}))
    on = board((agent(), {}), family=kind)
    before = dict(on.spendable_ub)
    opinions(work(), on)
    assert on.families == {"f": kind}
    assert on.spendable_ub == before
    assert on.seats["A"].agent == agent()
