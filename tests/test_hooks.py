from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

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
    for plugin in plugins:
        found._manager.register(plugin)
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
    mine = work(client_owner="team")
    assert related(mine, agent(owner="team"))
    assert not related(work(), agent(owner=""))
    assert not related(work(client_owner="other"), agent(owner="team"))
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
        balance_ub={"R": 10**12},
        spendable_ub={"R": 10**12},
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
