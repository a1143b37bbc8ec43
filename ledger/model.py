"""The values all rooms speak in: frozen, keyword-only, no behaviour beyond reading.

Amounts are integer micro-credits (`_ub`), capacity is integer milli-tokens (`_mt`) where it is
counted and whole tokens where people state it, times are seconds (`_s`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

Json = Any
"""Whatever `json.loads` returns."""


LANE_DEFAULT = "default"
"""The lane of agents that share nothing, and of tasks that name none."""


class AttemptKey(NamedTuple):
    """One try of one task. All that a Celery message carries, and the fencing token of a saga.

    `attempt` grows by one at every claim and is never used again, so whoever holds an older
    number can change nothing.
    """

    task: str
    attempt: int


class TaskState(StrEnum):
    """How a task stands in the ledger. Everything but INIT is final."""

    INIT = "INIT"
    COMMITTED = "COMMITTED"
    QUARANTINED = "QUARANTINED"
    CANCELLED = "CANCELLED"
    EXPIRED = "EXPIRED"


class SagaState(StrEnum):
    """How one attempt stands while it is in flight (paper §6.2)."""

    RESERVED = "RESERVED"
    EXECUTING = "EXECUTING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"


class Wait(StrEnum):
    """Why a task in INIT is not settled yet."""

    DISPATCH = "dispatch"  # ready: the dispatcher takes it as soon as the fleet has room
    ATTEMPT = "attempt"  # an attempt is in flight
    CAPACITY = "capacity"  # every agent that could take it is full
    CREDIT = "credit"  # who pays for it cannot pay the lowest price
    NO_AGENT = "no_agent"  # no agent satisfies the family's constraints
    COOLDOWN = "cooldown"  # every agent that could take it rests until a known time
    BUDGET = "budget"  # the parent's budget does not pay the lowest price, or the parent is over
    LANE = "lane"  # its lane changed hands before the attempt could start


class Outcome(StrEnum):
    """What came back from an agent, before anyone judged the content."""

    OK = "ok"
    TIMEOUT = "timeout"  # no complete answer within the deadline
    RATE_LIMITED = "rate_limited"  # 429, with or without Retry-After
    REFUSED = "refused"  # 4xx: the agent understood and declined
    ERROR = "error"  # 5xx, connection refused or broken
    GARBAGE = "garbage"  # not the JSON that the kind promises, or beyond the size limit
    LOST = "lost"  # our worker died with the call out; says nothing about the agent
    UNSTARTED = "unstarted"  # reserved, but nobody came to call; says nothing about the task either
    FENCED = "fenced"  # its lane changed hands meanwhile; says nothing about either


@dataclass(frozen=True, kw_only=True, slots=True)
class Agent:
    """Who executes: an endpoint, its shadow pool's parameters and its constraints."""

    id: str
    kind: str  # "json", "openai" or "echo"
    url: str
    y_max: int  # tokens
    k: int  # curve strength, B * tokens
    refill_per_s: int = 0  # tokens per second; 0: capacity comes back when a task ends
    slots: int = 10  # calls at a time
    cooldown_s: float = 0.0
    quota_ub: int = 0
    lane: str = LANE_DEFAULT
    owner: str = ""
    region: str = ""
    tools: frozenset[str] = frozenset()
    domains: frozenset[str] = frozenset({"public"})
    headers: Mapping[str, str] = field(default_factory=dict)
    model: str = ""  # kind "openai" only
    suspended: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """A kind of task: what it needs, how long one call may take, how its result is judged."""

    id: str
    size: int  # tokens, unless the task states its own
    deadline_s: float
    max_attempts: int
    validator: Mapping[str, Json]
    tools: frozenset[str] = frozenset()  # all needed
    domain: str = "public"
    region: str = ""  # empty: anywhere


@dataclass(frozen=True, kw_only=True, slots=True)
class Routing:
    """Parameters of the policy `paper` (`[routing]` in the configuration file)."""

    policy: str = "paper"
    alpha: float = 0.3  # EWMA weight of one verdict
    delta_f: float = 5.0  # jump of the risk premium at a severe failure
    f_max: float = 5.0
    lambda_per_s: float = 0.001  # decay of the risk premium
    epsilon: float = 0.05  # prices within (1+epsilon) of the best share the work by softmin
    ceiling: float | None = None  # an agent this many times dearer than when idle counts as full
    seed: int | None = None  # fixes the router's choices among near-best agents


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """What the steps need to know of one attempt's task; no payload."""

    key: AttemptKey
    payer: str  # an account
    payer_owner: str  # who stands behind the payer; empty: unknown
    family: str
    size: int  # tokens
    avoid: str | None  # the agent that failed this task last
    lane: str = LANE_DEFAULT
    fence: int = 0  # the lane's token under which the attempt was claimed
    fenced: bool = False  # the lane has changed hands since, or its holder's lease has ended
    # Of a subtask: the attempt that asked for it; the agents that wait for it, who pays last; what
    # all subtasks of that attempt may cost, 0 when it is over; and what the paid ones have cost.
    parent: AttemptKey | None = None
    chain: tuple[str, ...] = ()
    budget_ub: int = 0
    outsourced_ub: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """What an agent answered. `output` is only set when `outcome` is OK."""

    outcome: Outcome
    latency_s: float
    output: Json = None
    detail: str = ""  # one line for people, control characters removed
    retry_after_s: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What validation made of a reply."""

    passed: bool
    reason: str  # one line for people
    severe: bool = False  # timeout, garbage, unverifiable, tool escape: the risk premium jumps


@dataclass(frozen=True, kw_only=True, slots=True)
class Settlement:
    """A validated attempt, ready to be paid. `cost_ub` is the price quoted at reservation."""

    key: AttemptKey
    payer: str  # an account
    agent: str
    size: int
    cost_ub: int
    output: Json
    latency_s: float
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Penalty:
    """What a failure did to its agent: risk premium and quality before it and after."""

    f_before: float
    f_after: float
    s_before: float
    s_after: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """A failed attempt, ready to be recorded. `agent` is None when no agent is to blame, `penalty`
    when nobody is judged by it, or it is not known what came of that."""

    key: AttemptKey
    agent: str | None
    cost_ub: int  # what would have been paid
    outcome: Outcome
    reason: str
    latency_s: float = 0.0
    penalty: Penalty | None = None
