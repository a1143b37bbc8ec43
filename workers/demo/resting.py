"""HTTP agents that want rest between two calls, and punish who does not give it to them."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from workers.demo.port import Handler, Port

WORK_S = 0.5  # an answer takes so long
BANS = 3  # a call that comes too soon costs so many cooldowns, the next one twice as many


@dataclass(frozen=True, kw_only=True, slots=True)
class Served:
    """One call: when it came (seconds since the epoch), to whom, for whom, and what it got."""

    at_s: float
    agent: int
    who: str
    status: int


@dataclass(slots=True)
class Temper:
    """One agent's patience. Times are the caller's, in seconds."""

    cooldown_s: float
    opens_at_s: float = -math.inf
    ban_s: float = field(init=False)

    def __post_init__(self) -> None:
        self.ban_s = BANS * self.cooldown_s

    def call(self, now_s: float) -> float:
        """Seconds to stay away from now on; 0: the call is served."""
        if now_s >= self.opens_at_s:
            self.opens_at_s = now_s + self.cooldown_s
            self.ban_s = BANS * self.cooldown_s
            return 0.0
        self.opens_at_s = now_s + self.ban_s
        self.ban_s *= 2
        return self.opens_at_s - now_s


class RestingAgents(Port):
    """Some agents behind one port, told apart by their path."""

    def __init__(self, count: int, cooldown_s: float) -> None:
        self._guard = threading.Lock()
        self._tempers = [Temper(cooldown_s) for _ in range(count)]
        self._served: list[Served] = []
        agents = self

        class Resting(Handler):
            def do_POST(self) -> None:
                wait_s = agents.call(int(self.path.rpartition("/")[2]), self.asked())
                if wait_s:
                    rest = {"Retry-After": str(math.ceil(wait_s))}
                    self.answer(429, {"error": "too soon"}, rest)
                else:
                    time.sleep(WORK_S)
                    self.answer(200, {"output": {"minted": 1}})

        super().__init__(Resting)

    @property
    def urls(self) -> Sequence[str]:
        """Where each of them listens."""
        return [f"{self.root}/agents/{number}" for number in range(len(self._tempers))]

    def served(self) -> list[Served]:
        """Every call so far, in order."""
        with self._guard:
            return list(self._served)

    def call(self, agent: int, asked: Any) -> float:
        """A call comes in: seconds to stay away, 0 when it is served."""
        with self._guard:
            now_s = time.time()
            wait_s = self._tempers[agent].call(now_s)
            who = str(asked["payload"]["who"])
            status = 429 if wait_s else 200
            self._served.append(Served(at_s=now_s, agent=agent, who=who, status=status))
        return wait_s
