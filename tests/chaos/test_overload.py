"""Three times more work than the fleet can do: what has expired is never done, the rest is."""

from __future__ import annotations

import pytest

from tests.chaos.fleet_agents import Agent
from tests.chaos.fleet_overload import CAPACITY_PER_S, WORK_S, asked_late, offer
from tests.chaos.stack import SCALE, campaign
from workers.audit import audit

pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(not SCALE, reason="takes a minute; `make chaos` runs it"),
]

SLACK_S = 1.0  # a call that was decided on before the expiry may reach its agent after it


def test_expired_tasks_are_never_done_and_the_rest_is_paid_once() -> None:
    agent = Agent(seed=1, work_s=WORK_S, fails=False)
    with campaign(seed=1, agent=agent) as c:
        over = offer(c, 3 * CAPACITY_PER_S, 4.0)
        assert over.committed + over.expired == over.offered, "each ends in one of two ways"
        assert over.committed, "an overload of nothing proves nothing"
        assert over.never_asked, "nothing had to wait: this was no overload"
        # Served from the head of the line alone, nearly all would be called in their last moment.
        assert over.hurried < 0.5, f"tasks that had time stood behind late ones: {over}"
        assert over.asked_in_vain < over.asked / 4, f"agents worked for nothing: {over}"
        late = asked_late(c)
        assert max(late.values(), default=0.0) < SLACK_S, "an agent was given what had expired"
        after = offer(c, CAPACITY_PER_S / 4, 2.0)
        assert after.committed == after.offered, "it does not recover"
        assert audit(c.context).violations == []
