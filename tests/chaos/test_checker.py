"""The checker proves itself: each broken record is reported under its id, nothing passes unseen."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.chaos.checker import Record, in_between, unfinished, verdict
from tests.chaos.planted import BROKEN, BUGS, UNFINISHED, Broken, Bug, edit, finished
from tests.chaos.run import report_of
from tests.chaos.schedule import play
from tests.chaos.schedule_stage import MAX_ATTEMPTS, QUIET_S, Stage, stage
from tests.conftest import Servers

ROWS = {"C1", "C2", "C3", "C4", "C5", "C10", "C11"}
QUICK = 60  # schedules; the bugs that hide for longer are hunted by `make chaos`


@pytest.fixture(scope="module")
def a_stage(servers: Servers) -> Iterator[Stage]:
    with stage(servers.database_url, servers.redis_url) as made:
        yield made


def test_a_clean_installation_is_clean(a_stage: Stage) -> None:
    world = finished(a_stage)
    assert world.judged() == []
    assert {ending.state for ending in world.record.endings.values()} == {
        "COMMITTED", "QUARANTINED", "CANCELLED",
    }  # fmt: skip
    assert unfinished(a_stage.owner, 0, QUIET_S) == []
    assert list(in_between(world.watcher)) == []


def test_every_row_has_a_planted_violation() -> None:
    assert {broken.breaks for broken in BROKEN} == ROWS
    assert len({broken.name for broken in BROKEN}) == len(BROKEN)


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.name)
def test_a_broken_record_is_reported_under_its_id(a_stage: Stage, broken: Broken) -> None:
    world = finished(a_stage)
    edit(a_stage, broken)
    assert broken.breaks in {item.invariant for item in world.judged()}


def test_a_task_that_hangs_is_late(a_stage: Stage) -> None:
    finished(a_stage)
    edit(a_stage, UNFINISHED)
    (late,) = unfinished(a_stage.owner, 0, QUIET_S)
    assert late.invariant == UNFINISHED.breaks


def test_what_redis_has_in_flight_is_late(a_stage: Stage) -> None:
    finished(a_stage)
    (late,) = unfinished(a_stage.owner, 1, QUIET_S)
    assert (late.invariant, late.subject) == ("C11", "redis")


def test_a_pool_above_its_cap_is_seen_while_work_flows(a_stage: Stage) -> None:
    world = finished(a_stage)
    a_stage.do("HINCRBY", "pool:A", "y_mt", 1)
    a_stage.do("HINCRBY", "pool:B", "in_flight", 99)
    assert {item.subject for item in in_between(world.watcher)} == {"agent A", "agent B"}


def test_nothing_to_check_is_a_violation(a_stage: Stage) -> None:
    world = finished(a_stage)
    a_stage.reset()
    found = verdict(a_stage.owner, world.watcher, Record(), sagas=[], max_attempts=MAX_ATTEMPTS)
    assert [item.invariant for item in found] == ["checker"]


def test_a_checker_that_cannot_read_fails(servers: Servers) -> None:
    with stage(servers.database_url, servers.redis_url) as made:
        world = finished(made)
        made.owner.execute("DROP TABLE attempt CASCADE")
        with pytest.raises(Exception, match="attempt"):
            world.judged()


@pytest.mark.parametrize("bug", [bug for bug in BUGS if bug.quick], ids=lambda bug: bug.name)
def test_a_planted_bug_is_caught(a_stage: Stage, bug: Bug) -> None:
    with bug.planted():
        for seed in range(1, QUICK + 1):
            played = play(a_stage, seed)
            if bug.breaks & {item.invariant for item in played.violations}:
                said = report_of(played)
                assert f"python -m tests.chaos.run --seed-one {seed}\n" in said
                return
    pytest.fail(f"no schedule up to {QUICK} has caught it")
