from __future__ import annotations

import math
import random
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import structlog.testing

from ledger.model import Agent, Outcome, Reply, Routing, Verdict, Work
from scheduler.hooks import Hooks, hookimpl, load_hooks
from scheduler.judgement import Adjustment, Judgement, QualitySample, RiskJump, adjust
from scheduler.pool import MT, Pool
from scheduler.qos import Qos, related
from scheduler.router import Board, Quote, Seat, plan
from tests.makers import agent, family, work

ROUTING = Routing()
PASSED = Verdict(passed=True, reason="passed")
WRONG = Verdict(passed=False, reason="wrong", severe=True)
REFUSED = Verdict(passed=False, reason="refused")


def reply(outcome: Outcome) -> Reply:
    return Reply(outcome=outcome, latency_s=0.1)


class Broken:
    @hookimpl
    def on_validate(self) -> Sequence[Adjustment]:
        raise RuntimeError("third-party bug")

    @hookimpl
    def before_task(self) -> bool:
        raise RuntimeError("third-party bug")


class Strict:
    """Dislikes B, and wants more of a passed verdict."""

    @hookimpl
    def before_task(self, agent: Agent) -> bool:
        return agent.id == "B"

    @hookimpl
    def on_validate(self, verdict: Verdict) -> Sequence[Adjustment] | None:
        return [RiskJump(delta=0.5)] if verdict.passed else None


def hooks(*plugins: object) -> Hooks:
    found = load_hooks(Qos(ROUTING))
    for number, plugin in enumerate(plugins):
        found.add(f"plugin{number}", lambda plugin=plugin: plugin)  # type: ignore[misc]
    return found


def judged(
    found: Hooks,
    outcome: Outcome,
    verdict: Verdict,
    by: Work | None = None,
    on: Agent | None = None,
) -> Judgement:
    """What one reply makes of a fresh agent, in the order in which the validate step asks."""
    values = {"work": by or work(), "agent": on or agent(), "reply": reply(outcome)}
    asked = found.adjustments("after_task", **values)
    if outcome is Outcome.TIMEOUT:
        asked += found.adjustments("on_timeout", work=values["work"], agent=values["agent"])
    asked += found.adjustments("on_validate", verdict=verdict, **values)
    return adjust(Judgement(), asked, ROUTING, 0)


@pytest.mark.parametrize(
    ("outcome", "verdict", "f", "s"),
    [
        (Outcome.OK, PASSED, 0.0, 1.0),
        (Outcome.OK, WRONG, 5.0, 0.7),
        (Outcome.GARBAGE, WRONG, 5.0, 0.7),
        (Outcome.TIMEOUT, WRONG, 5.0, 0.7),
        (Outcome.ERROR, REFUSED, 0.0, 0.7),
        (Outcome.REFUSED, REFUSED, 0.0, 0.7),
        (Outcome.RATE_LIMITED, REFUSED, 0.0, 1.0),
        (Outcome.LOST, REFUSED, 0.0, 1.0),
        (Outcome.UNSTARTED, REFUSED, 0.0, 1.0),
    ],
)
def test_built_in_quality_of_service(
    outcome: Outcome, verdict: Verdict, f: float, s: float
) -> None:
    after = judged(hooks(), outcome, verdict)
    assert after.f == f
    assert after.s == pytest.approx(s)


def test_a_timeout_jumps_once() -> None:
    routing = Routing(delta_f=1.0)
    found = load_hooks(Qos(routing))
    values = {"work": work(), "agent": agent()}
    asked = found.adjustments("on_timeout", **values)
    asked += found.adjustments("on_validate", reply=reply(Outcome.TIMEOUT), verdict=WRONG, **values)
    assert [item for item in asked if isinstance(item, RiskJump)] == [RiskJump(delta=1.0)]


def test_praise_of_a_related_client_does_not_count() -> None:
    mine = work(payer_owner="team")
    assert related(mine, agent(owner="team"))
    assert not related(work(), agent(owner=""))
    assert not related(work(payer_owner="other"), agent(owner="team"))
    after = judged(hooks(), Outcome.OK, WRONG, by=mine, on=agent(owner="team"))
    assert (after.s, after.samples, after.f) == (1.0, 0, 5.0)


def test_a_plug_in_that_raises_stops_nobody() -> None:
    found = hooks(Broken(), Strict())
    asked = found.adjustments(
        "on_validate", work=work(), agent=agent(), reply=reply(Outcome.OK), verdict=PASSED
    )
    assert asked == [QualitySample(passed=True, weight=1.0), RiskJump(delta=0.5)]


def test_points_that_nobody_listens_at_are_known() -> None:
    assert not hooks().has("before_task")
    assert hooks(Strict()).has("before_task")
    assert list(hooks().results("on_epoch_end", epoch=1)) == []


def test_a_veto_is_respected_by_the_plan() -> None:
    found = hooks(Broken(), Strict())
    agents = [agent("A", y_max=200), agent("B")]
    board = Board(
        seats={
            item.id: Seat.open(
                item, Pool(y_mt=item.y_max * MT, refilled_at_ms=0), Judgement(), ROUTING, 0
            )
            for item in agents
        },
        balance_ub={"client:R": 10**12},
        spendable_ub={"client:R": 10**12},
        families={"f": family()},
        routing=ROUTING,
        now_ms=0,
        veto=lambda task, on, cost: any(
            found.results("before_task", work=task, agent=on, cost_ub=cost)
        ),
    )
    (decision,) = plan([work()], board, random.Random(1))
    assert isinstance(decision, Quote)
    assert decision.agent.id == "A", "B is cheaper"


class Answers:
    def __init__(self, answer: object) -> None:
        self.answer = answer

    @hookimpl
    def on_validate(self) -> object:
        return self.answer


JUMP = RiskJump(delta=1.0)


@pytest.mark.parametrize("answer", [5, "text", [5], {"f": 1}, JUMP, [JUMP, None], iter([JUMP])])
def test_a_plug_in_that_returns_nonsense_stops_nobody(answer: object) -> None:
    asked = hooks(Answers(answer), Answers([JUMP])).adjustments(
        "on_validate", work=work(), agent=agent(), reply=reply(Outcome.OK), verdict=PASSED
    )
    assert asked == [QualitySample(passed=True, weight=1.0), JUMP]


# Plug-ins that mean harm, or are simply broken --------------------------------------------------


class Truth:
    def __bool__(self) -> bool:
        raise RuntimeError("no truth")

    def __repr__(self) -> str:
        return "Truth()"  # as any process shows it: it is part of a test's name


class Endless(Sequence[Any]):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: Any) -> Any:
        return JUMP  # at every index: iterating never ends


@dataclass(frozen=True, kw_only=True)
class Sly(RiskJump):
    delta: float = 1.0


def quality(**values: Any) -> QualitySample:
    return QualitySample(**{"passed": True, **values})


@pytest.mark.parametrize(
    "answer",
    [
        [RiskJump(delta=math.nan)],
        [RiskJump(delta=math.inf)],
        [RiskJump(delta=-1.0)],
        [RiskJump(delta="5")],  # type: ignore[arg-type]
        [RiskJump(delta=True)],
        [quality(passed=7)],
        [quality(passed=Truth())],
        [quality(weight=math.nan)],
        [quality(weight=None)],
        [Sly()],
        [JUMP] * 17,
        "",
        b"x",
    ],
    ids=repr,
)
def test_an_adjustment_that_the_arithmetic_does_not_bear_is_dropped(answer: Any) -> None:
    asked = hooks(Answers(answer), Answers([JUMP])).adjustments(
        "on_validate", work=work(), agent=agent(), reply=reply(Outcome.OK), verdict=PASSED
    )
    assert asked == [QualitySample(passed=True, weight=1.0), JUMP]


class Does:
    """A plug-in that does the same at every point."""

    def __init__(self, action: Callable[[], Any]) -> None:
        self.action = action
        self.calls = 0

    def act(self) -> Any:
        self.calls += 1
        return self.action()

    @hookimpl
    def before_task(self) -> Any:
        return self.act()

    @hookimpl
    def on_validate(self) -> Any:
        return self.act()


def validated(found: Hooks) -> list[Adjustment]:
    return found.adjustments(
        "on_validate", work=work(), agent=agent(), reply=reply(Outcome.OK), verdict=PASSED
    )


def vetoed(found: Hooks) -> bool:
    return any(found.results("before_task", work=work(), agent=agent(), cost_ub=1))


def hang() -> None:
    threading.Event().wait()


def leave() -> None:
    sys.exit("bye")


def test_a_plug_in_that_hangs_is_asked_once_and_then_never_again() -> None:
    bad, good = Does(hang), Does(lambda: None)
    found = hooks(bad, Strict(), good)
    with structlog.testing.capture_logs() as lines:
        for _ in range(50):
            assert validated(found) == [QualitySample(passed=True), RiskJump(delta=0.5)]
            assert not vetoed(found)
    assert bad.calls == 1
    assert good.calls == 100
    assert [line["event"] for line in lines] == ["hook plug-in switched off"]
    first, *others = found.plugins()
    assert first.name == "plugin0"
    assert "used up its time; its last call, on_validate, took " in first.off
    assert [plugin.off for plugin in others] == ["", ""]


def test_a_point_at_which_only_a_switched_off_plug_in_listened_costs_nothing() -> None:
    found = hooks(Does(hang))
    assert found.has("before_task")
    assert not vetoed(found)
    assert not found.has("before_task")


def test_a_plug_in_that_is_slow_on_average_is_switched_off() -> None:
    bad = Does(lambda: time.sleep(0.05))
    found = hooks(bad)
    for _ in range(100):
        validated(found)
    assert bad.calls <= 25
    assert found.plugins()[0].off


def test_a_plug_in_may_be_slow_once() -> None:
    naps = iter([0.3])
    found = hooks(Does(lambda: time.sleep(next(naps, 0))))
    for _ in range(200):
        validated(found)
    assert not found.plugins()[0].off


@pytest.mark.parametrize("action", [leave, Truth, Endless, lambda: 1 / 0])
def test_a_plug_in_that_leaves_or_answers_traps_costs_its_own_answer(
    action: Callable[[], Any],
) -> None:
    found = hooks(Does(action), Answers([JUMP]))
    assert validated(found) == [QualitySample(passed=True), JUMP]
    assert not vetoed(found)


def test_a_plug_in_that_always_fails_does_not_fill_the_log() -> None:
    found = hooks(Does(lambda: 1 / 0))
    with structlog.testing.capture_logs() as lines:
        for _ in range(250):
            validated(found)
    assert [line["failures"] for line in lines] == [1, 10, 100]
    assert found.plugins()[0].failures == 250


def test_what_a_plug_in_says_reaches_the_log_without_control_characters() -> None:
    def fail() -> None:
        raise ValueError("\x1b[2J\r\n\u202e" + "x" * 10**6)

    with structlog.testing.capture_logs() as lines:
        validated(hooks(Does(fail)))
    (line,) = lines
    assert line["reason"].isprintable()
    assert line["reason"].startswith("ValueError: ")
    assert len(line["reason"]) <= 300


class Misspelled:
    @hookimpl
    def before_tusk(self) -> None:
        raise AssertionError


class Curious:
    @hookimpl
    def before_task(self, secret: str) -> None:  # noqa: ARG002
        raise AssertionError


@pytest.mark.parametrize(
    ("load", "words"),
    [
        (leave, "SystemExit: bye"),
        (lambda: 1 / 0, "ZeroDivisionError"),
        (Misspelled, "before_tusk"),
        (Curious, "secret"),
    ],
)
def test_a_plug_in_that_does_not_load_is_left_out_and_said(
    load: Callable[[], Any], words: str
) -> None:
    found = hooks()
    with structlog.testing.capture_logs() as lines:
        found.add("bad", load)
    found.add("good", Strict)
    assert [line["event"] for line in lines] == ["hook plug-in not loaded"]
    assert words in lines[0]["reason"]
    assert words in found.plugins()[0].off
    assert vetoed(found) is False
    assert validated(found) == [QualitySample(passed=True), RiskJump(delta=0.5)]


@pytest.mark.parametrize("name", ["qos", "mine"])
def test_no_plug_in_takes_anothers_name(name: str) -> None:
    found = hooks()
    found.add("mine", Strict)
    with structlog.testing.capture_logs() as lines:
        found.add(name, lambda: Does(lambda: [JUMP]))
    assert lines[0]["reason"] == "another one has its name"
    assert validated(found) == [QualitySample(passed=True), RiskJump(delta=0.5)]
