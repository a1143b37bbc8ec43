"""What is in flight: pools, sagas, credit deltas and leases, each change one atomic script.

Rows M04, M05, M10. Every method works on a set of attempts in one round trip. Keys:
`pool:<agent>` capacity and judgement, `saga:<task>:<attempt>` one attempt, `credit:<client>`
what is reserved, `leases` every attempt in flight by the instant its lease ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib import resources
from typing import Any

import redis

from ledger.errors import Unavailable
from ledger.model import Agent, AttemptKey, Reply, SagaState, Verdict
from scheduler.judgement import Judgement
from scheduler.pool import MT, Pool, gives_back
from scheduler.router import Quote
from scheduler.saga import (
    Penalty,
    Saga,
    decode_saga,
    encode_penalty,
    encode_quote,
    encode_reply,
    encode_verdict,
    member,
    parse_member,
)

LEASES = "leases"
POOL_FIELDS = ("y_mt", "refilled_at_ms", "in_flight", "next_available_ms", "last_action_ms")
JUDGEMENT_FIELDS = ("f", "s", "judged_at_ms", "samples", "version")


class Taken(StrEnum):
    """What the reservation script answered."""

    OK = "OK"
    MOVED = "MOVED"  # the pool is not what the price was computed from: plan again
    CREDIT = "CREDIT"  # the client's credit went elsewhere meanwhile
    DUPLICATE = "DUPLICATE"  # this attempt is reserved already


@dataclass(frozen=True, kw_only=True, slots=True)
class Credit:
    """A client's credit delta: held by attempts in flight; settled since Redis was empty."""

    reserved_ub: int
    released_ub: int


def connect(url: str) -> redis.Redis:
    """A client for `redis://` or `rediss://`; it connects on first use."""
    return redis.Redis.from_url(
        url, decode_responses=True, socket_keepalive=True, health_check_interval=25
    )


class Reservations:
    """The scripts, each under its verb. Raises Unavailable while Redis does not answer."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client
        self._scripts = {
            verb: client.register_script(_lua(verb))
            for verb in ("seed", "reserve", "advance", "release", "judge", "rest")
        }

    def board(self, agents: Sequence[str]) -> dict[str, tuple[Pool, Judgement]]:
        """Capacity and judgement of each agent; those without a pool yet are left out."""
        with self._pipeline() as pipe:
            for agent in agents:
                pipe.hmget(f"pool:{agent}", *POOL_FIELDS, *JUDGEMENT_FIELDS)
            rows = _execute(pipe)
        return {
            agent: _pool(row)
            for agent, row in zip(agents, rows, strict=True)
            if row[0] is not None and row[len(POOL_FIELDS)] is not None
        }

    def seed(
        self, agents: Iterable[Agent], known: Mapping[str, tuple[Pool, Judgement]], now_ms: int
    ) -> None:
        """Create missing pools, full, with the judgement last known of each agent."""
        fresh = (Pool(y_mt=0, refilled_at_ms=now_ms), Judgement(judged_at_ms=now_ms))
        with self._pipeline() as pipe:
            for agent in agents:
                pool, judged = known.get(agent.id, fresh)
                self._scripts["seed"](
                    keys=[f"pool:{agent.id}"],
                    args=[
                        agent.y_max * MT, now_ms, repr(judged.f), repr(judged.s),
                        judged.judged_at_ms, judged.samples, pool.next_available_ms,
                    ],
                    client=pipe,
                )  # fmt: skip
            _execute(pipe)

    def credits(self, clients: Sequence[str]) -> dict[str, Credit]:
        """What is held and what was settled per client.

        Read it before the balances it will be compared with: a settlement that falls in between
        then counts twice for a moment instead of not at all.
        """
        with self._pipeline() as pipe:
            for client in clients:
                pipe.hmget(f"credit:{client}", "reserved_ub", "released_ub")
            return {
                client: Credit(reserved_ub=int(row[0] or 0), released_ub=int(row[1] or 0))
                for client, row in zip(clients, _execute(pipe), strict=True)
            }

    def reserve(
        self,
        quotes: Sequence[Quote],
        *,
        spendable_ub: Mapping[str, int],
        released_seen_ub: Mapping[str, int],
        lease_until_ms: Mapping[str, int],
        now_ms: int,
    ) -> list[Taken]:
        """Take what was planned, each quote all or nothing. `lease_until_ms` is by family."""
        with self._pipeline() as pipe:
            for quote in quotes:
                agent, work = quote.agent, quote.work
                self._scripts["reserve"](
                    keys=_keys(agent.id, work.key, work.client),
                    args=[
                        member(work.key), now_ms, lease_until_ms[work.family], quote.size_mt,
                        quote.y_seen_mt, quote.refill_mt, quote.refilled_seen_ms,
                        agent.y_max * MT, agent.slots, int(agent.cooldown_s * 1000),
                        quote.cost_ub, spendable_ub[work.client],
                        released_seen_ub[work.client],
                        *encode_quote(quote, gives_back(agent)),
                    ],
                    client=pipe,
                )  # fmt: skip
            return [Taken(answer) for answer in _execute(pipe)]

    def read(self, keys: Sequence[AttemptKey]) -> list[Saga | None]:
        """Each attempt as it stands, None where it is not in flight."""
        with self._pipeline() as pipe:
            for key in keys:
                pipe.hgetall(f"saga:{member(key)}")
            return [
                decode_saga(key, fields) for key, fields in zip(keys, _execute(pipe), strict=True)
            ]

    def begin_and_read(self, keys: Sequence[AttemptKey], now_ms: int) -> list[Saga]:
        """RESERVED to EXECUTING. Returns those that this caller, and no other, may call."""
        with self._pipeline() as pipe:
            for key in keys:
                step = (key, SagaState.EXECUTING, "began_ms", str(now_ms))
                self._queue_advance(pipe, SagaState.RESERVED, step)
                pipe.hgetall(f"saga:{member(key)}")
            answers = _execute(pipe)
        sagas = [
            decode_saga(key, fields)
            for key, mine, fields in zip(keys, answers[::2], answers[1::2], strict=True)
            if mine
        ]
        return [saga for saga in sagas if saga is not None]

    def answer(self, replies: Mapping[AttemptKey, Reply]) -> list[bool]:
        """Keep the agent's reply with an EXECUTING attempt; a second reply changes nothing."""
        steps = [
            (key, SagaState.EXECUTING, "reply", encode_reply(reply))
            for key, reply in replies.items()
        ]
        return self._advance(SagaState.EXECUTING, steps)

    def judge(self, verdicts: Mapping[AttemptKey, Verdict]) -> list[bool]:
        """EXECUTING to SUCCEEDED or FAILED. True for those that this call decided."""
        steps = [
            (
                key,
                SagaState.SUCCEEDED if verdict.passed else SagaState.FAILED,
                "verdict",
                encode_verdict(verdict),
            )
            for key, verdict in verdicts.items()
        ]
        return self._advance(SagaState.EXECUTING, steps)

    def give_up(self, sagas: Sequence[Saga], verdict: Verdict) -> list[bool]:
        """RESERVED or EXECUTING without a reply to FAILED: whoever held it is gone."""
        with self._pipeline() as pipe:
            for saga in sagas:
                self._queue_advance(
                    pipe,
                    saga.state,
                    (saga.work.key, SagaState.FAILED, "verdict", encode_verdict(verdict)),
                )
            return [bool(done) for done in _execute(pipe)]

    def note_penalty(self, penalties: Mapping[AttemptKey, Penalty]) -> None:
        """Keep with a FAILED attempt what the failure did to its agent's judgement."""
        steps = [
            (key, SagaState.FAILED, "penalty", encode_penalty(penalty))
            for key, penalty in penalties.items()
        ]
        self._advance(SagaState.FAILED, steps)

    def release(
        self, sagas: Sequence[Saga], agents: Mapping[str, Agent], *, settled: bool
    ) -> None:
        """End attempts: capacity returns to the pool, the credit delta is gone (M05)."""
        with self._pipeline() as pipe:
            for saga in sagas:
                agent = agents.get(saga.agent)
                y_max_mt = agent.y_max * MT if agent else 0
                self._scripts["release"](
                    keys=_keys(saga.agent, saga.work.key, saga.work.client),
                    args=[
                        member(saga.work.key), saga.size_mt if saga.gives_back else 0, y_max_mt,
                        -saga.cost_ub, saga.cost_ub if settled else 0,
                    ],
                    client=pipe,
                )  # fmt: skip
            _execute(pipe)

    def store_judgements(self, changes: Mapping[str, tuple[Judgement, Judgement]]) -> list[str]:
        """Agents whose judgement was replaced by someone else between read and store.

        `changes` maps an agent to (as read, as it should become).
        """
        with self._pipeline() as pipe:
            for agent, (before, after) in changes.items():
                self._scripts["judge"](
                    keys=[f"pool:{agent}"],
                    args=[
                        before.version, after.version, repr(after.f), repr(after.s),
                        after.judged_at_ms, after.samples,
                    ],
                    client=pipe,
                )  # fmt: skip
            stored = _execute(pipe)
        return [agent for agent, done in zip(changes, stored, strict=True) if not done]

    def rest(self, until_ms: Mapping[str, int]) -> None:
        """No reservation on these agents before the given instants."""
        with self._pipeline() as pipe:
            for agent, instant in until_ms.items():
                self._scripts["rest"](keys=[f"pool:{agent}"], args=[instant], client=pipe)
            _execute(pipe)

    def overdue(self, now_ms: int, limit: int) -> list[AttemptKey]:
        """Attempts whose lease has ended, oldest first."""
        with self._pipeline() as pipe:
            pipe.zrange(LEASES, "-inf", now_ms, byscore=True, offset=0, num=limit)
            return [parse_member(text) for text in _execute(pipe)[0]]

    def extend(self, keys: Sequence[AttemptKey], lease_until_ms: int) -> None:
        """Give attempts that are still in flight more time."""
        with self._pipeline() as pipe:
            for key in keys:
                pipe.zadd(LEASES, {member(key): lease_until_ms}, xx=True)
            _execute(pipe)

    def forget_leases(self, keys: Sequence[AttemptKey]) -> None:
        """Drop leases of attempts that are no longer in flight."""
        with self._pipeline() as pipe:
            for key in keys:
                pipe.zrem(LEASES, member(key))
            _execute(pipe)

    def count_in_flight(self) -> int:
        """Attempts between reservation and release."""
        with self._pipeline() as pipe:
            pipe.zcard(LEASES)
            return int(_execute(pipe)[0])

    def _advance(
        self, state: SagaState, steps: Sequence[tuple[AttemptKey, SagaState, str, str]]
    ) -> list[bool]:
        with self._pipeline() as pipe:
            for step in steps:
                self._queue_advance(pipe, state, step)
            return [bool(done) for done in _execute(pipe)]

    def _queue_advance(
        self, pipe: Any, state: SagaState, step: tuple[AttemptKey, SagaState, str, str]
    ) -> None:
        key, to, field, value = step
        self._scripts["advance"](
            keys=[f"saga:{member(key)}"], args=[state, to, field, value], client=pipe
        )

    def _pipeline(self) -> Any:
        return self._redis.pipeline(transaction=False)


def _execute(pipe: Any) -> list[Any]:
    try:
        return list(pipe.execute())
    except (redis.ConnectionError, redis.TimeoutError) as error:
        raise Unavailable("redis", str(error), "it is retried; see `clearlane status`") from error


def _lua(verb: str) -> str:
    return resources.files("scheduler.lua").joinpath(f"{verb}.lua").read_text()


def _keys(agent: str, key: AttemptKey, client: str) -> list[str]:
    return [f"pool:{agent}", f"saga:{member(key)}", f"credit:{client}", LEASES]


def _pool(row: Sequence[str | None]) -> tuple[Pool, Judgement]:
    y_mt, refilled, in_flight, available, action, f, s, judged, samples, version = (
        value or "0" for value in row
    )
    return (
        Pool(
            y_mt=int(y_mt),
            refilled_at_ms=int(refilled),
            in_flight=int(in_flight),
            next_available_ms=int(available),
            last_action_ms=int(action),
        ),
        Judgement(
            f=float(f),
            s=float(s),
            judged_at_ms=int(judged),
            samples=int(samples),
            version=int(version),
        ),
    )
