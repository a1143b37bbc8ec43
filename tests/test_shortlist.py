"""A few agents looked at lead where all of them would have led."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine

import tasks.messages
from ledger.model import Agent, Family, Routing, Wait, Work
from ledger.registry import suspend
from scheduler import shortlist
from scheduler.connection import connect
from scheduler.judgement import Judgement
from scheduler.pool import MT, Pool
from scheduler.reservations import Reservations
from scheduler.router import Board, NoSeat, Quote, Seat, plan
from scheduler.shortlist import FORGET_MS, SPARE, TURN, Shortlist
from tasks import reserve
from tasks.context import Context, bind
from tests.makers import agent, claim, client, family, install, submit, work
from workers.dispatcher import COUNT_MAX, Dispatcher

NOW_MS = 1_000_000
RICH = 10**15
F = {"f": family()}


class Truth:
    """What Redis would say of a fleet: only who is asked about is told."""

    def __init__(self, agents: Iterable[Agent], families: Mapping[str, Family] = F) -> None:
        self.agents = {item.id: item for item in agents}
        self.families = families
        self.pools = {
            name: Pool(y_mt=item.y_max * MT, refilled_at_ms=NOW_MS)
            for name, item in self.agents.items()
        }
        self.judged = {name: Judgement(judged_at_ms=NOW_MS) for name in self.agents}
        self.routing = Routing(epsilon=0.0)
        self.shortlist = Shortlist(self.agents, families, random.Random(1))
        self.now_ms = NOW_MS

    def board(self, names: Iterable[str]) -> Board:
        return Board(
            seats={
                name: Seat.open(
                    self.agents[name], self.pools[name], self.judged[name], self.routing,
                    self.now_ms,
                )
                for name in names
            },
            balance_ub={"client:R": RICH},
            spendable_ub={"client:R": RICH},
            families=self.families,
            routing=self.routing,
            now_ms=self.now_ms,
            suited=self.shortlist.suited,
        )  # fmt: skip

    def plan(self, works: Sequence[Work], names: Iterable[str]) -> list[Quote | NoSeat]:
        return plan(works, self.board(names), random.Random(2))

    def pick(self, works: Sequence[Work], *, wider: bool = False) -> list[str]:
        return self.shortlist.pick(works, self.now_ms, wider=wider)

    def chunk(self, works: Sequence[Work], *, wider: bool = False) -> list[Quote | NoSeat]:
        """What the reserve step does, with nothing taken for good."""
        board = self.board(self.pick(works, wider=wider))
        decisions = plan(works, board, random.Random(2))
        self.shortlist.learn(works, board)
        return decisions

    def learn(self, works: Sequence[Work], names: Iterable[str]) -> None:
        self.shortlist.learn(works, self.board(names))

    def fill(self, names: Iterable[str]) -> None:
        for name in names:
            self.pools[name] = replace(self.pools[name], in_flight=self.agents[name].slots)


def fleet(count: int, **values: Any) -> list[Agent]:
    return [agent(f"a{number}", **values) for number in range(count)]


def works(count: int, **values: Any) -> list[Work]:
    return [work(f"t{number}", **values) for number in range(count)]


def prices(decisions: Iterable[Quote | NoSeat]) -> list[float]:
    return sorted(item.price_ub for item in decisions if isinstance(item, Quote))


FLEETS = st.lists(
    st.tuples(
        st.integers(50, 2_000),  # y_max
        st.integers(0, 3),  # slots
        st.integers(1, 10**7),  # k
        st.floats(0, 1),  # share of y left
        st.floats(0, 5),  # f
        st.sampled_from([0.0, 0.0, 3.0]),  # cooldown_s
        st.sampled_from([0, 0, 0, NOW_MS + 1]),  # rests
    ),
    min_size=3,
    max_size=14,
)


@settings(max_examples=200, deadline=None)
@given(FLEETS, st.integers(1, 8), st.sampled_from([None, 2.0]))
def test_with_fresh_knowledge_the_prices_are_those_of_the_whole_fleet(
    given_fleet: list[Any], count: int, ceiling: float | None
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        # As few as can be: one agent for each task.
        patch.setattr(shortlist, "WHOLE_MAX", 2)
        patch.setattr(shortlist, "SPARE", 0)
        truth = Truth(
            agent(f"a{number}", y_max=y_max, slots=slots, k=k, cooldown_s=cooldown_s)
            for number, (y_max, slots, k, _, _, cooldown_s, _) in enumerate(given_fleet)
        )
        truth.routing = Routing(epsilon=0.0, ceiling=ceiling)
        for number, (y_max, _, _, left, f, _, rests) in enumerate(given_fleet):
            name = f"a{number}"
            truth.pools[name] = Pool(
                y_mt=int(y_max * MT * left), refilled_at_ms=NOW_MS, next_available_ms=rests
            )
            truth.judged[name] = Judgement(f=f, s=1 - f / 10, judged_at_ms=NOW_MS)
        asked = works(count)
        truth.learn(asked, truth.agents)
        names = truth.pick(asked)
        assert prices(truth.plan(asked, names)) == prices(truth.plan(asked, truth.agents))
        if sum(item.y_max > 100 for item in truth.agents.values()) > 2:
            assert len(names) <= count


def test_a_small_fleet_is_looked_at_whole() -> None:
    truth = Truth(fleet(64, suspended=True))
    assert truth.pick(works(1)) == list(truth.agents)


def test_a_family_that_few_can_take_has_all_of_them_looked_at() -> None:
    families = {"f": family(), "eu": family("eu", region="eu")}
    truth = Truth([*fleet(500), *(agent(f"e{n}", region="eu") for n in range(60))], families)
    assert set(truth.pick(works(1, family="eu"))) == {f"e{number}" for number in range(60)}
    # Large tasks too, whatever small agents there are.
    large = Truth([*fleet(500, y_max=120), agent("L", y_max=5_000)])
    assert large.pick(works(2, size=121)) == ["L"]
    assert [item.agent.id for item in large.chunk(works(2, size=121))] == ["L", "L"]  # type: ignore[union-attr]


def test_a_fleet_without_an_agent_for_a_task_is_known_for_it() -> None:
    families = {"f": family(), "eu": family("eu", region="eu")}
    truth = Truth([*fleet(500), agent("E", region="eu", suspended=True)], families)
    for asked in (work(family="eu"), work(size=1_000)):
        (decision,) = truth.chunk([asked])
        assert isinstance(decision, NoSeat)
        assert (decision.wait, decision.unseen) == (Wait.NO_AGENT, False)


def test_sizes_of_one_chunk_each_find_who_fits() -> None:
    """They share an order, in which those who are too small for the largest come first."""
    truth = Truth([*fleet(500, y_max=110, k=1), *(agent(f"L{n}", k=10**7) for n in range(100))])
    decisions = truth.chunk([work("t0", size=120), work("t1", size=70)])
    assert [item.agent.id[0] for item in decisions if isinstance(item, Quote)] == ["L", "a"]


@pytest.mark.parametrize("slots", [1, 50])
def test_what_is_looked_at_does_not_grow_with_the_fleet(slots: int) -> None:
    truth, rng = Truth(fleet(2_000, slots=slots)), random.Random(3)
    for _ in range(60):
        asked = works(rng.choice([1, 10, 128]))
        wider = rng.random() < 0.2
        bound = len(asked) + SPARE + SPARE + len(asked) // 2 + (TURN if wider else 0)
        assert len(truth.pick(asked, wider=wider)) <= bound
        decisions = truth.chunk(asked, wider=wider)
        truth.fill(item.agent.id for item in decisions if isinstance(item, Quote))
        truth.now_ms += 100


def test_agents_of_one_price_take_turns() -> None:
    truth = Truth(fleet(200))
    looked: set[str] = set()
    for _ in range(200 // (1 + SPARE) + 1):
        looked |= set(truth.pick(works(1)))
        truth.chunk(works(1))
    assert looked == set(truth.agents)


def test_processes_begin_with_different_agents() -> None:
    agents = {item.id: item for item in fleet(1_000)}
    first, second = (Shortlist(agents, F, random.Random(seed)) for seed in (1, 2))
    assert set(first.pick(works(1), NOW_MS)) != set(second.pick(works(1), NOW_MS))


def test_who_was_busy_is_looked_at_again_after_a_while() -> None:
    """Only who would be cheaper: the dear can stay unknown."""
    truth = Truth([*fleet(100), agent("cheap", k=1, slots=1), agent("dear", k=10**9, slots=1)])
    truth.fill(["cheap", "dear"])
    truth.learn(works(1), truth.agents)
    truth.now_ms += FORGET_MS - 1
    assert "cheap" not in truth.pick(works(1))
    truth.now_ms += 1
    picked = truth.pick(works(1))
    assert "cheap" in picked
    assert "dear" not in picked
    # Still busy: it is left alone for as long again.
    truth.chunk(works(1))
    assert "cheap" not in truth.pick(works(1))


def test_who_failed_is_given_another_look() -> None:
    truth = Truth([*fleet(100, k=10**7), agent("cheap", k=10**6)])
    truth.judged["cheap"] = Judgement(f=5.0, s=0.001, judged_at_ms=NOW_MS)
    truth.chunk(works(1))
    truth.judged["cheap"] = Judgement(judged_at_ms=NOW_MS)
    truth.now_ms += FORGET_MS
    (decision,) = truth.chunk(works(1))
    assert isinstance(decision, Quote)
    assert decision.agent.id == "cheap"


def test_a_full_fleet_is_asked_longest_ago_first() -> None:
    truth = Truth(fleet(400, slots=1))
    truth.fill(truth.agents)
    truth.learn(works(1), truth.agents)
    looked: set[str] = set()
    for _ in range(400 // (1 + SPARE) + 1):
        looked |= set(truth.pick(works(1)))
        truth.chunk(works(1))
    assert looked == set(truth.agents)


def test_the_only_free_agent_is_found_by_turns() -> None:
    """All seem free, and all but one have been taken by others since."""
    truth = Truth(fleet(1_000, slots=1))
    free = next(iter(truth.agents.keys() - truth.pick(works(1), wider=True)))
    truth.fill(truth.agents.keys() - {free})
    for _ in range(1_000 // TURN + 1):
        (decision,) = truth.chunk(works(1), wider=True)
        if isinstance(decision, Quote):
            break
        assert decision.unseen
    assert isinstance(decision, Quote)
    assert decision.agent.id == free


@pytest.fixture
def room(
    engine: Engine, reservations: Reservations, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> Room:
    return Room(engine, reservations, now, monkeypatch)


class Room:
    """A hundred agents on real servers, and the reserve step alone."""

    def __init__(
        self, engine: Engine, at: Reservations, now: datetime, patch: pytest.MonkeyPatch
    ) -> None:
        self.engine, self.at, self.now = engine, at, now
        self.agents = fleet(100, slots=1)
        install(engine, now, clients=[client(mint_b=10**6)], agents=self.agents)
        self.context = Context(
            engine=engine, reservations=at, lease_margin_s=1.0, clock=now.timestamp
        )
        bind(self.context)
        self.sent: list[list[Any]] = []
        patch.setattr(tasks.messages, "current_app", self)

    def send_task(self, _name: str, args: list[Any], **_shown: str) -> None:
        self.sent += args[0]

    def reserve(self, count: int) -> int:
        """How many of so many new tasks got a seat."""
        submit(self.engine, self.now, count)
        before = len(self.sent)
        reserve.reserve([[*key] for key in claim(self.engine, self.now)])
        return len(self.sent) - before

    def taken(self) -> set[str]:
        pools, _ = self.at.look([item.id for item in self.agents])
        return {name for name, (pool, _) in pools.items() if pool.in_flight}


def test_a_chunk_reads_a_few_pools(room: Room, redis_url: str) -> None:
    assert room.reserve(1) == 1
    pools, _ = room.at.look([item.id for item in room.agents])
    assert len(pools) == 100, "who finds one missing makes all that are missing"
    redis = connect(redis_url)
    redis.config_resetstat()
    assert room.reserve(10) == 10
    calls = redis.info("commandstats")["cmdstat_hmget"]["calls"]  # type: ignore[index]
    in_scripts = 3 * 10  # the pool, the credit and the lane of each reservation
    assert calls - in_scripts <= 10 + SPARE + 1
    assert len(room.taken()) == 11


def test_who_finds_no_room_among_a_few_looks_further(room: Room) -> None:
    room.reserve(1)
    now_ms = int(room.now.timestamp() * 1000)
    (first,) = room.taken()
    free = {item.id for item in room.agents[-3:] if item.id != first}
    others = [item.id for item in room.agents if item.id not in free | {first}]
    room.at.rest(dict.fromkeys(others, 60_000), now_ms)
    assert room.reserve(5) == len(free)
    assert room.taken() == free | {first}


def test_a_changed_registry_is_a_new_fleet(room: Room) -> None:
    room.reserve(1)
    for item in room.agents:
        suspend(room.engine, item.id, suspended=True)
    install(room.engine, room.now, agents=[agent("new", k=10**9)])
    room.context._read_at = 0.0  # as if a second had passed
    assert room.reserve(3) == 3
    assert len(room.taken()) == 1, "none of the old ones was taken again"
    assert room.at.look(["new"])[0]["new"][0].in_flight == 3


def test_the_room_of_a_large_fleet_is_counted_in_turns(
    engine: Engine, reservations: Reservations, now: datetime, redis_url: str
) -> None:
    agents = fleet(COUNT_MAX + 100, slots=2)
    install(engine, now, agents=agents)
    context = Context(
        engine=engine, reservations=reservations, lease_margin_s=1.0, clock=now.timestamp
    )
    now_ms = int(now.timestamp() * 1000)
    reservations.seed(agents, {}, now_ms)
    dispatcher, registry = Dispatcher(context, lambda: 0), context.registry()
    reservations.rest({item.id: 60_000 for item in agents}, now_ms)
    redis = connect(redis_url)
    redis.config_resetstat()
    assert dispatcher._count(registry) == {"default": 2 * 100}, "the rest are taken for ready"
    assert redis.info("commandstats")["cmdstat_hmget"]["calls"] == COUNT_MAX  # type: ignore[index]
    assert dispatcher._count(registry) == {"default": 0}
    suspend(engine, "a0", suspended=True)
    context._read_at = 0.0  # as if a second had passed
    assert dispatcher._count(context.registry()) == {"default": 2 * 100}, "a new count begins"
