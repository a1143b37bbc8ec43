"""The built-in quality of service: the paper's section 5.2 and 5.3 as a plug-in like any other.

A severe failure makes the risk premium jump; every verdict on content moves the quality, unless
who pays belongs to the agent's owner (rows M13, M14).
"""

from __future__ import annotations

from collections.abc import Sequence

from ledger.model import Agent, Outcome, Reply, Routing, Verdict, Work
from scheduler.hooks import hookimpl
from scheduler.judgement import Adjustment, QualitySample, RiskJump

# The agent said "not now" or never got the call: this tells nothing about its work.
NOT_A_SAMPLE = frozenset({Outcome.RATE_LIMITED, Outcome.LOST, Outcome.UNSTARTED})


class Qos:
    """Risk and quality by the paper's rules."""

    def __init__(self, routing: Routing) -> None:
        self._routing = routing

    @hookimpl
    def on_timeout(self) -> Sequence[Adjustment]:
        """No answer in time is severe."""
        return [RiskJump(delta=self._routing.delta_f)]

    @hookimpl
    def on_validate(
        self, work: Work, agent: Agent, reply: Reply, verdict: Verdict
    ) -> Sequence[Adjustment]:
        """A severe verdict raises f (a timeout already has); content moves s."""
        changes: list[Adjustment] = []
        if verdict.severe and reply.outcome is not Outcome.TIMEOUT:
            changes.append(RiskJump(delta=self._routing.delta_f))
        if reply.outcome not in NOT_A_SAMPLE:
            weight = 0.0 if related(work, agent) else 1.0
            changes.append(QualitySample(passed=verdict.passed, weight=weight))
        return changes


def related(work: Work, agent: Agent) -> bool:
    """Whether payer and agent have the same known owner: praising oneself does not count."""
    return bool(agent.owner) and agent.owner == work.payer_owner
