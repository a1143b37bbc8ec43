"""The shortlist: whom of a large fleet a chunk of tasks looks at before it is planned.

Row M11. A plan of n tasks can only use the n cheapest agents, so looking at these is as good as
looking at all: as long as what is known of the others is true, the prices are the same. It may be
old, and then a task may pay a price that is not the lowest of the moment; what is planned is
always what the agents looked at really have, so nothing is ever overdrawn.

Each process knows what it has seen itself. A small fleet, or a small part of a fleet that alone
can take a family's tasks, is looked at whole. Pure: time is an argument, randomness a generator.
"""

from __future__ import annotations

import random
from bisect import bisect_left, bisect_right, insort
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice

from ledger.model import Agent, Family, Work
from scheduler.pool import MT, cost_ub
from scheduler.router import Board, Seat, eligible

WHOLE_MAX = 64  # agents that are simply all looked at
SPARE = 16  # looked at beyond one agent for each task
TURN = 240  # for tasks that found no room: agents looked at longest ago
FORGET_MS = 500  # how long an agent that was busy is taken for busy
KINDS_MAX = 64  # sets of constraints remembered
RANKINGS_MAX = 16  # orders remembered: some megabytes each with 10,000 agents

Kind = tuple[str, frozenset[str], str, str]
"""What a task asks of an agent: lane, tools, data domain, region. Those that ask the same share."""

Entry = tuple[float, int, str]
"""Price in micro-credits, when it was listed (later is greater), agent."""

INFINITE = float("inf")


@dataclass(frozen=True, kw_only=True, slots=True)
class Suited:
    """The agents that satisfy a kind, smallest pool first. sizes: their y_max, in tokens."""

    names: Sequence[str]
    sizes: Sequence[int]

    def above(self, size: int) -> Sequence[str]:
        """Those who could take so many tokens if they were idle."""
        return self.names[bisect_right(self.sizes, size) :]


class Order:
    """Agents by price, lowest first; among equals whoever was listed longest ago."""

    def __init__(self) -> None:
        self._entries: list[Entry] = []
        self._of: dict[str, Entry] = {}
        self._listed = 0

    def __contains__(self, name: str) -> bool:
        return name in self._of

    def put(self, name: str, price_ub: float) -> None:
        """List an agent at this price, and at no other."""
        self.drop(name)
        self._listed += 1
        self._of[name] = entry = (price_ub, self._listed, name)
        insort(self._entries, entry)

    def drop(self, name: str) -> None:
        """Take an agent off the list, if it is there."""
        entry = self._of.pop(name, None)
        if entry is not None:
            del self._entries[bisect_left(self._entries, entry)]

    def below(self, price_ub: float) -> Iterator[Entry]:
        """Those with a lower price, one by one."""
        return islice(self._entries, bisect_left(self._entries, (price_ub,)))


@dataclass(kw_only=True, slots=True)
class Ranking:
    """Agents in the order of what one size would cost there.

    y_max: in tokens. idle_ub: the lowest price an agent can have. known: by the price they had
    when they were last looked at, without those that were full. hoped: who was dearer than idle
    then, by the price they would have if they were idle now; it may be true, for it is a while
    ago. busy: who was dearer than idle or full a moment ago, and when, in ms. turn: all, by when
    they were last looked at.
    """

    size_mt: int
    y_max: Mapping[str, int]
    idle_ub: dict[str, float] = field(default_factory=dict)
    known: Order = field(default_factory=Order)
    hoped: Order = field(default_factory=Order)
    busy: OrderedDict[str, int] = field(default_factory=OrderedDict)
    turn: OrderedDict[str, None] = field(default_factory=OrderedDict)

    @classmethod
    def open(cls, agents: Sequence[Agent], size: int) -> Ranking:
        """Nothing is known yet: all are taken for idle, ties in the order given."""
        found = cls(size_mt=size * MT, y_max={agent.id: agent.y_max for agent in agents})
        for agent in agents:
            price_ub = float(cost_ub(agent.k, agent.y_max * MT, found.size_for(agent)))
            found.idle_ub[agent.id] = price_ub
            found.known.put(agent.id, price_ub)
            found.turn[agent.id] = None
        return found

    def size_for(self, agent: Agent) -> int:
        """What an agent is asked for here, in milli-tokens; one that is too small for the size,
        though not for all that share this order, for half of what it has."""
        y_max_mt = agent.y_max * MT
        return self.size_mt if self.size_mt < y_max_mt else y_max_mt // 2

    def first(self, count: int, size: int, now_ms: int) -> list[str]:
        """Whom `count` tasks of up to `size` tokens should look at."""
        self._forget(now_ms)
        known = list(islice(self._above(self.known.below(INFINITE), size), count + SPARE))
        short = max(0, count + SPARE - len(known))
        # Who can only be dearer than these even when idle need not be looked at.
        below_ub = INFINITE if short else known[-1][0]
        hoped = islice(self._above(self.hoped.below(below_ub), size), short + SPARE + count // 2)
        names = dict.fromkeys(name for _, _, name in (*known, *hoped))
        full = (
            name
            for name in self.busy
            if name not in self.known and name not in self.hoped and self.y_max[name] > size
        )
        return [*names, *islice(full, max(0, count + SPARE - len(names)))]

    def oldest(self, count: int, size: int) -> list[str]:
        """Those whose last look was longest ago."""
        return list(islice((name for name in self.turn if self.y_max[name] > size), count))

    def learn(self, seat: Seat, ceiling: float | None, now_ms: int) -> None:
        """Where an agent stands now."""
        name = seat.agent.id
        found = seat.price(self.size_for(seat.agent), ceiling, now_ms)
        if found is None:
            self.known.drop(name)
        else:
            self.known.put(name, found[1])
        self.hoped.drop(name)
        self.busy.pop(name, None)
        if found is None or found[1] > self.idle_ub[name]:
            self.busy[name] = now_ms
        self.turn.move_to_end(name)

    def _forget(self, now_ms: int) -> None:
        """Hope again for those who were busy a while ago."""
        while self.busy:
            name, looked_ms = next(iter(self.busy.items()))
            if now_ms - looked_ms < FORGET_MS:
                return
            del self.busy[name]
            self.hoped.put(name, self.idle_ub[name])

    def _above(self, entries: Iterable[Entry], size: int) -> Iterator[Entry]:
        return (entry for entry in entries if self.y_max[entry[2]] > size)


class Shortlist:
    """What one process knows of the agents of one registry, and whom it would ask next."""

    def __init__(
        self, agents: Mapping[str, Agent], families: Mapping[str, Family], rng: random.Random
    ) -> None:
        self._agents = agents
        self._families = families
        self._order = list(agents)
        if len(agents) > WHOLE_MAX:
            # Other processes begin with other agents of the same price.
            rng.shuffle(self._order)
        self._suited = lru_cache(KINDS_MAX)(self._find)
        self._ranking = lru_cache(RANKINGS_MAX)(self._rank)

    def suited(self, work: Work) -> int:
        """How many agents of the whole fleet could take the task if they were idle."""
        return len(self._suited(self._kind(work)).above(work.size))

    def pick(self, works: Sequence[Work], now_ms: int, *, wider: bool = False) -> list[str]:
        """Agents to look at for these tasks. wider: for tasks that found no room among those that
        were picked for them before; then everybody has a turn, sooner or later."""
        if len(self._agents) <= WHOLE_MAX:
            return list(self._agents)
        found: dict[str, None] = {}
        sizes: dict[tuple[Kind, int], list[int]] = defaultdict(list)
        for (kind, size), count in self._asked(works).items():
            above = self._suited(kind).above(size)
            if len(above) <= WHOLE_MAX:
                found |= dict.fromkeys(above)
            else:
                sizes[kind, size.bit_length()] += [size] * count
        for (kind, bits), asked in sizes.items():
            ranking = self._ranking(kind, bits)
            # Who fits the largest fits them all, and who fits only the smallest may be cheaper.
            for size in {min(asked), max(asked)}:
                found |= dict.fromkeys(ranking.first(len(asked), size, now_ms))
                if wider:
                    found |= dict.fromkeys(ranking.oldest(TURN, size))
        return list(found)

    def learn(self, works: Sequence[Work], board: Board) -> None:
        """Remember how the agents of a board stand now, after these tasks were planned on it."""
        if len(self._agents) <= WHOLE_MAX:
            return
        for kind, bits in {(kind, size.bit_length()) for kind, size in self._asked(works)}:
            if len(self._suited(kind).names) > WHOLE_MAX:
                ranking = self._ranking(kind, bits)
                for name, seat in board.seats.items():
                    if name in ranking.idle_ub:
                        ranking.learn(seat, board.routing.ceiling, board.now_ms)

    def _asked(self, works: Sequence[Work]) -> dict[tuple[Kind, int], int]:
        """How many tasks there are of each kind and size."""
        found: dict[tuple[Kind, int], int] = defaultdict(int)
        for work in works:
            found[self._kind(work), work.size] += 1
        return found

    def _kind(self, work: Work) -> Kind:
        return _kind_of(work.lane, self._families[work.family])

    def _find(self, kind: Kind) -> Suited:
        lane = kind[0]
        family = next(item for item in self._families.values() if _kind_of(lane, item) == kind)
        fit = [name for name in self._order if eligible(self._agents[name], lane, family)]
        fit.sort(key=lambda name: self._agents[name].y_max)
        return Suited(names=fit, sizes=[self._agents[name].y_max for name in fit])

    def _rank(self, kind: Kind, bits: int) -> Ranking:
        """The order for sizes of so many bits, at the size that a family of this kind has."""
        smallest = 1 << bits - 1
        usual = (
            item.size
            for item in self._families.values()
            if item.size.bit_length() == bits and _kind_of(kind[0], item) == kind
        )
        fit = set(self._suited(kind).above(smallest))
        agents = [self._agents[name] for name in self._order if name in fit]
        return Ranking.open(agents, next(usual, smallest))


def _kind_of(lane: str, family: Family) -> Kind:
    return lane, family.tools, family.domain, family.region
