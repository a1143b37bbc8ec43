"""One attempt in flight, as Redis holds it (paper section 6; rows M04, M05).

The saga is the paper's transient delta: it never reaches the ledger before the settlement, and
losing it loses no fact. Encoding and decoding live here; who may change what is in the scripts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from ledger.model import AttemptKey, Outcome, Penalty, Reply, SagaState, Verdict, Work
from scheduler.router import Quote


def member(key: AttemptKey) -> str:
    """The name of an attempt inside Redis."""
    return f"{key.task}:{key.attempt}"


def parse_member(text: str) -> AttemptKey:
    """The inverse of `member`."""
    task, _, attempt = text.rpartition(":")
    return AttemptKey(task, int(attempt))


def budget_key(work: Work) -> str:
    """The key in Redis of the attempt whose budget pays for a subtask, empty for none."""
    return "" if work.parent is None else f"saga:{member(work.parent)}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Saga:
    """An attempt between its reservation and its release."""

    work: Work
    state: SagaState
    agent: str
    size_mt: int
    cost_ub: int
    gives_back: bool
    reply: Reply | None
    verdict: Verdict | None
    penalty: Penalty | None  # of a failure; None until it is known
    began: bool  # a worker has set out to call the agent
    outsourced_ub: int = 0  # held or paid for its subtasks
    judging: bool = False  # a validator of others has been given the reply


def encode_sheet(quote: Quote, gives_back: bool) -> str:
    """What a saga is born with, as one JSON text: one field is cheaper to move than eight."""
    work = quote.work
    values = {
        "agent": quote.agent.id,
        "payer": work.payer,
        "owner": work.payer_owner,
        "family": work.family,
        "size": work.size,
        "size_mt": quote.size_mt,
        "cost_ub": quote.cost_ub,
        "gives_back": gives_back,
    }
    if work.parent is not None:
        values["parent"] = work.parent
    return json.dumps(values, separators=(",", ":"))


def encode_reply(reply: Reply) -> str:
    """A reply as one JSON text."""
    # Spelled out: the generic way would copy the output, which may be large.
    values = {
        "outcome": reply.outcome,
        "latency_s": reply.latency_s,
        "output": reply.output,
        "detail": reply.detail,
        "retry_after_s": reply.retry_after_s,
    }
    return json.dumps(values, separators=(",", ":"))


def encode_verdict(verdict: Verdict) -> str:
    """A verdict as one JSON text."""
    values = {"passed": verdict.passed, "reason": verdict.reason, "severe": verdict.severe}
    return json.dumps(values, separators=(",", ":"))


def encode_penalty(penalty: Penalty) -> str:
    """A penalty as one JSON text."""
    return json.dumps(asdict(penalty), separators=(",", ":"))


def decode_saga(key: AttemptKey, fields: Mapping[str, str]) -> Saga | None:
    """The saga behind a Redis hash, or None when there is none."""
    if not fields:
        return None
    sheet = json.loads(fields["sheet"])
    reply, verdict, penalty = (fields.get(name) for name in ("reply", "verdict", "penalty"))
    return Saga(
        work=Work(
            key=key,
            payer=sheet["payer"],
            payer_owner=sheet["owner"],
            family=sheet["family"],
            size=sheet["size"],
            avoid=None,
            parent=AttemptKey(*sheet["parent"]) if "parent" in sheet else None,
        ),
        state=SagaState(fields["state"]),
        agent=sheet["agent"],
        size_mt=sheet["size_mt"],
        cost_ub=sheet["cost_ub"],
        gives_back=sheet["gives_back"],
        reply=_reply(json.loads(reply)) if reply is not None else None,
        verdict=Verdict(**json.loads(verdict)) if verdict is not None else None,
        began="caller" in fields,
        outsourced_ub=int(fields.get("outsourced_ub", 0)),
        judging="judging" in fields,
        penalty=Penalty(**json.loads(penalty)) if penalty is not None else None,
    )


def _reply(values: dict[str, object]) -> Reply:
    outcome = Outcome(str(values.pop("outcome")))
    return Reply(outcome=outcome, **values)  # type: ignore[arg-type]
