"""Whole stacks under load and faults: whatever is broken, C1 to C5, C10 and C11 hold afterwards."""

from __future__ import annotations

import random
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.chaos.fleet_faults import FAULTS
from tests.chaos.fleet_load import Load
from tests.chaos.stack import FRONT, POOLS, SCALE, SEED, Campaign, campaign, untrue

pytestmark = pytest.mark.timeout(600)

SLICE = ("kill_pool", "terminate_backends", "lose_commit_replies", "flush_valkey", "fill_valkey")
ROUNDS = 3 * SCALE or 1
KILLS = 40 * SCALE
VICTIMS = (*POOLS, *FRONT, "flower", "postgres", "valkey")


class Yard:
    """One stack for all faults; after a failure the next fault gets a new one."""

    def __init__(self) -> None:
        self._opened = ExitStack()
        self._campaign: Campaign | None = None

    def get(self) -> Campaign:
        if self._campaign is None:
            self._campaign = self._opened.enter_context(campaign(seed=SEED))
        return self._campaign

    def drop(self) -> None:
        self._campaign = None
        self._opened.close()


@pytest.fixture(scope="module")
def yard() -> Iterator[Yard]:
    yard = Yard()
    yield yard
    yard.drop()


def suffer(yard: Yard, name: str, act: Callable[[Campaign, Load, random.Random], None]) -> None:
    """Load, what `act` does to it, quiet, and the check; a failure says how to repeat it."""
    print(f"repeat: CHAOS_SCALE={SCALE} CHAOS_SEED={SEED} pytest tests/chaos -k {name}")
    seed = zlib.crc32(f"{SEED}:{name}".encode())
    rng = random.Random(seed)
    try:
        c = yard.get()
        with c.load(name, seed) as load:
            act(c, load, rng)
            c.flow(load, 10)
            c.settle(load)
    except BaseException:
        yard.drop()
        raise
    print(f"{name}: told of {len(load.told)} tasks, answers {dict(load.answers)}")


@pytest.mark.parametrize("name", FAULTS if SCALE else SLICE)
def test_fault(yard: Yard, name: str) -> None:
    def rounds(c: Campaign, load: Load, rng: random.Random) -> None:
        for _ in range(ROUNDS):
            c.flow(load, rng.randint(5, 30))
            FAULTS[name](c, rng)

    suffer(yard, name, rounds)


@pytest.mark.skipif(not SCALE, reason="takes two minutes; `make chaos` runs it")
def test_processes_killed_all_the_time(yard: Yard) -> None:
    """One after the other, whoever runs, while those killed before still start."""

    def kills(c: Campaign, load: Load, rng: random.Random) -> None:
        c.flow(load, 10)
        before = c.kills.total()
        while c.kills.total() < before + KILLS:
            running = [name for name in VICTIMS if name in {*c.pids(), "postgres", "valkey"}]
            c.kill(rng.choice(running))
            time.sleep(rng.uniform(0.0, 2.0))  # a random moment is the point of it

    suffer(yard, "test_processes_killed_all_the_time", kills)


def test_the_record_notices_what_is_not_true(yard: Yard) -> None:
    """The checks are worth nothing unless they see each kind of lie."""
    c = yard.get()
    with c.load("lies", SEED) as load:
        c.flow(load, 20)
        c.settle(load)
    first, second, third, *_ = load.told.values()
    first.state = "EXPIRED"
    second.task = third.task
    third.cost_ub = "-1"
    forgotten, _ = load.told.popitem()
    load.told["never sent"] = first
    wrong = untrue(c.postgres, load)
    assert len(wrong) == 5, wrong
    assert f"{forgotten}: accepted, and nobody was told" in wrong
