"""What goes over the wire: amounts are decimal strings of µB (`_ub`), times RFC 3339 in UTC."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from ledger.intake import SIZE_MAX, TYPE_DEFAULT
from ledger.model import LANE_DEFAULT, Json, TaskState, Wait
from tasks.messages import ATTEMPT_MAX
from workers.terms import EXPIRES_S_MAX, KEY, NAME

ACCOUNT = r"^(client|agent|system):[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
UUID = r"^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$"
TASK_EXAMPLE = "01990000-0000-7000-8000-000000000001"

Amount = Annotated[str, BeforeValidator(str)]
"""An integer of ours, written as a decimal string: other languages' numbers are too small."""


class Closed(BaseModel):
    """Unknown fields are refused, so that a typing error never changes what was meant."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class TaskIn(Closed):
    """A task to be done."""

    model_config = ConfigDict(
        strict=True,
        json_schema_extra={
            "examples": [
                {
                    "client": "R",
                    "family": "extract",
                    "payload": {"text": "Invoice 17, due 1 May"},
                    "size": 100,
                    "expires_s": 600,
                    "idempotency_key": "invoice-17",
                }
            ]
        },
    )

    client: str | None = Field(
        None, pattern=NAME, description="Who pays; a client's token may leave it out."
    )
    family: str = Field(pattern=NAME, description="The kind of work.")
    payload: Any = Field(description="What the agent gets: any JSON, 1 MiB at most.")
    size: int | None = Field(
        None, ge=1, le=SIZE_MAX, description="Capacity it needs, in tokens; the family's if absent."
    )
    type: str = Field(
        TYPE_DEFAULT,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
        description="What it is for, in a word of the client's own.",
    )
    lane: str = Field(
        LANE_DEFAULT, pattern=NAME, description="The shared resource whose agents do it."
    )
    expires_s: float | None = Field(
        None,
        gt=0,
        le=EXPIRES_S_MAX,
        description="Seconds from its acceptance after which it is no longer worth doing; absent: "
        "never. Not part of the content that a key stands for: the first time counts.",
    )
    parent: str | None = Field(
        None,
        pattern=UUID,
        description="The task that it is a part of: header X-Clearlane-Task of the call that an"
        " agent is answering. With an agent's token only, and always.",
    )
    attempt: int | None = Field(
        None,
        ge=1,
        le=ATTEMPT_MAX,
        description="With parent: header X-Clearlane-Attempt of that call.",
    )
    idempotency_key: str | None = Field(
        None,
        pattern=KEY,
        description="1 to 200 printable ASCII characters. The same key with the same content "
        "names the same task again.",
    )


class Accepted(Closed):
    """A task that is in the ledger, durably."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"task": TASK_EXAMPLE, "state": "INIT"}]}
    )

    task: str = Field(description="Its id.")
    state: TaskState = Field(description="INIT until it ends; everything else is final.")


class TaskLine(Accepted):
    """A task in a list."""

    model_config = ConfigDict(json_schema_extra=None)

    client: str | None = Field(description="The client who pays; null: an agent does.")
    payer: str = Field(description="The account that pays.", examples=["client:R"])
    parent: str | None = Field(description="The task that it is a part of.")
    family: str = Field(description="The kind of work.")
    type: str = Field(description="What it is for.")
    size: int = Field(description="Capacity it needs, in tokens.")
    wait: Wait | None = Field(description="Why it has not ended; null when it has.")
    attempts: int = Field(
        description="How often it was claimed for an agent, also when none had room then: not the "
        "number of calls. What agents did is in `timeline`."
    )
    submitted_at: datetime = Field(description="When it was accepted.")
    ended_at: datetime | None = Field(description="When it ended.")
    reason: str | None = Field(description="Why it ended the way it did, or failed last.")


class Attempt(Closed):
    """How one attempt of a task ended."""

    attempt: int = Field(description="Its number; it may skip some that were lost.")
    state: str = Field(description="COMMITTED or ABORTED.")
    outcome: str = Field(description="What came back from the agent.")
    agent: str | None = Field(description="Who was asked; null when nobody was.")
    cost_ub: Amount = Field(description="The price quoted, in µB; paid only if COMMITTED.")
    latency_s: float = Field(description="How long the agent took.")
    reason: str = Field(description="The verdict, for people.")
    ended_at: datetime = Field(description="When it ended.")


class Task(TaskLine):
    """A task with everything that is known of it."""

    lane: str = Field(description="The shared resource whose agents do it.")
    batch: int | None = Field(description="The batch it belongs to.")
    parent_attempt: int | None = Field(description="The attempt of its parent that asked for it.")
    budget_ub: Amount | None = Field(
        description="What all subtasks of that attempt may cost together, in µB."
    )
    failures: int = Field(description="Attempts that failed.")
    ready_at: datetime = Field(description="While INIT: when it is next worth a try.")
    expires_at: datetime | None = Field(description="When it is no longer worth doing.")
    agent: str | None = Field(description="Who was paid; null unless COMMITTED.")
    cost_ub: Amount | None = Field(description="What was paid, in µB; null unless COMMITTED.")
    leaf: int | None = Field(
        description="Where its settlement stands in the log; null unless COMMITTED."
    )
    result: Json = Field(description="The agent's validated output; null unless COMMITTED.")
    timeline: list[Attempt] = Field(description="Its attempts that ended, oldest first.")


class Agent(Closed):
    """An agent as registered, and how it stands."""

    agent: str = Field(description="Its id.")
    kind: str = Field(description="How it is spoken to: json, openai or echo.")
    url: str = Field(description="Where it is; credentials and query are left out.")
    model: str = Field(description="The model asked for (kind openai).")
    y_max: int = Field(description="Capacity when idle, in tokens.")
    k: int = Field(description="Strength of its price curve.")
    refill_per_s: int = Field(description="Tokens that come back per second; 0: when a task ends.")
    slots: int = Field(description="Calls at a time.")
    cooldown_s: float = Field(description="Pause between two calls.")
    quota_ub: Amount = Field(description="How far its account may go below zero, in µB.")
    lane: str = Field(description="The shared resource it uses.")
    owner: str = Field(description="Who stands behind it.")
    region: str = Field(description="Where it runs.")
    tools: list[str] = Field(description="What it can use.")
    domains: list[str] = Field(description="Data it may see.")
    headers: list[str] = Field(description="Names of the headers sent to it; values are not told.")
    suspended: bool = Field(description="Taken out of routing.")
    y: float | None = Field(description="Free capacity now, in tokens; null: nothing known yet.")
    in_flight: int | None = Field(description="Attempts it holds now.")
    f: float | None = Field(description="Risk premium now.")
    s: float | None = Field(description="Quality, 0 to 1.")
    samples: int | None = Field(description="Verdicts the quality rests on.")
    rests_until: datetime | None = Field(description="No work before then; null: open now.")


class Price(Closed):
    """What an agent asks for a task of the given size now."""

    agent: str = Field(description="Who asks.")
    y: float = Field(description="Free capacity, in tokens.")
    y_max: int = Field(description="Capacity when idle, in tokens.")
    k: int = Field(description="Strength of its price curve.")
    f: float = Field(description="Risk premium.")
    s: float = Field(description="Quality, 0 to 1.")
    in_flight: int = Field(description="Attempts it holds.")
    cost_ub: Amount | None = Field(description="What would be paid, in µB; null: no room.")
    price_ub: Amount | None = Field(description="What the router compares: cost·(1+f)/s, in µB.")
    state: str = Field(description="Whether it takes work now.")
    reason: str = Field(description="Why not, for people.")


class Lane(Closed):
    """A shared resource and who may use it now."""

    lane: str = Field(description="Its name.")
    mode: str = Field(description="cron (everybody's tasks), manual (a person) or paused (nobody).")
    principal: str = Field(description="Who holds it.")
    reason: str = Field(description="Why, in the holder's words.")
    batch: int | None = Field(description="The batch it is held for.")
    since: datetime = Field(description="When the holder asked for it.")
    until: datetime | None = Field(
        description="When a manual hold ends unless it is renewed; null: not by itself."
    )
    token: int = Field(description="One more at every change of holder.")
    drained: bool = Field(description="Whether the holder may work; else it waits for in_flight.")
    in_flight: int = Field(description="Attempts under way, of the holder before until drained.")


class Tenure(Closed):
    """One holder's time."""

    token: int = Field(description="Its token.")
    mode: str = Field(description="cron, manual or paused.")
    principal: str = Field(description="Who held it.")
    reason: str = Field(description="Why, in the holder's words.")
    asked_at: datetime = Field(description="When it was asked for.")
    began_at: datetime | None = Field(description="When work could begin; null: not yet, or never.")
    ended_at: datetime | None = Field(description="When the next holder began.")
    ended: str | None = Field(
        description="taken, released, expired, revoked or withdrawn; null: it has not ended."
    )


class LaneBook(Lane):
    """A lane with its history."""

    history: list[Tenure] = Field(description="The newest first.")


class Totals(Closed):
    """What an epoch moved."""

    accounts: int = Field(description="How many there were at its end.")
    demurrage_ub: Amount = Field(description="Taken from balances above the limit, in µB.")
    charge_ub: Amount = Field(description="Taken from accounts that owe more than the limit.")
    top_up_ub: Amount = Field(description="Given to clients whose budget blocked them.")
    burned_ub: Amount = Field(description="Burned by settlements.")
    minted_ub: Amount = Field(description="Created.")
    settled: int = Field(description="Tasks that were settled.")


class Epoch(Closed):
    """A span of the log, at whose end all accounts are cleared."""

    epoch: int = Field(description="Its number; the first is 1.")
    opened_at: datetime = Field(description="When it began.")
    closed_at: datetime | None = Field(description="When it ended; null while it is open.")
    final_at: datetime | None = Field(description="When the quorum of replicas had signed it.")
    first: int = Field(description="Its first leaf in the log.")
    size: int | None = Field(description="The leaf after its last one: the log's size at its end.")
    totals: Totals | None = Field(description="Null while it is open.")
    balances_sha256: str | None = Field(description="Of all balances at its end.")


class Account(Closed):
    """An account's balance."""

    account: str = Field(description="client:…, agent:… or system:….", examples=["client:R"])
    balance_ub: Amount = Field(description="What it holds, in µB; may be negative.")
    quota_ub: Amount | None = Field(description="How far it may go below zero, in µB; null: any.")


class Posting(Closed):
    """One movement on an account."""

    transaction: int = Field(description="Number of the ledger's transaction.")
    kind: str = Field(description="Why credit moved: mint or settle.")
    task: str | None = Field(description="The task that was paid.")
    at: datetime = Field(description="When.")
    amount_ub: Amount = Field(description="What the account gained, in µB.")
    leaf: int | None = Field(
        description="Where it stands in the log; null: it is older than the log."
    )


class AccountBook(Account):
    """An account with its newest movements."""

    opened_at: datetime = Field(description="When it was opened.")
    postings: list[Posting] = Field(description="The newest first.")


class Alive(Closed):
    """The process answers."""

    alive: bool = Field(description="Always true.")


class Ready(Closed):
    """Every server that is needed answers."""

    ready: bool = Field(description="Always true; a 503 says what is missing.")
    checks: dict[str, str] = Field(
        description="What was asked, and its answer.", examples=[{"postgresql": "ok"}]
    )
