"""What is in flight: pools, sagas, credit deltas and leases, each change one atomic script.

Rows M04, M05, M10. Every method works on a set of attempts in one round trip. Keys:
`pool:<agent>` capacity and judgement, `saga:<task>:<attempt>` one attempt, `credit:<account>`
what is reserved, `lane:<lane>` the fencing token and pace, `leases` every attempt in flight by the
instant its lease ends, `probe` nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import redis

from ledger.model import Agent, AttemptKey, Penalty, Reply, SagaState, Verdict
from scheduler.away import AWAY, unavailable
from scheduler.judgement import Judgement
from scheduler.pool import MT, Pool, gives_back
from scheduler.router import Quote
from scheduler.saga import (
    Saga,
    budget_key,
    decode_saga,
    encode_penalty,
    encode_reply,
    encode_sheet,
    encode_verdict,
    member,
    parse_member,
)
from scheduler.scripts import Call, queue
from scheduler.standing import Standing, decode_standings

LEASES = "leases"
PROBE = "probe"
PROBE_MS = 1_000


class Taken(StrEnum):
    """What the reservation script answered."""

    OK = "OK"
    MOVED = "MOVED"  # the pool is not what the price was computed from: plan again
    CREDIT = "CREDIT"  # the payer's credit went elsewhere meanwhile
    BUDGET = "BUDGET"  # the parent's budget does not pay for it, or its agent has answered
    DUPLICATE = "DUPLICATE"  # this attempt is reserved already
    FENCED = "FENCED"  # its lane has another holder by now
    PACED = "PACED"  # its lane was told to slow down: not yet


@dataclass(frozen=True, kw_only=True, slots=True)
class Credit:
    """An account's credit delta: held by attempts in flight; settled since Redis was empty."""

    reserved_ub: int
    released_ub: int


REST_MS = 1_000  # after a 429, whatever it asked for: Retry-After counts in whole seconds
REST_MAX_MS = 60_000  # after many in a row; an agent may ask for more
GAP_MS = 250  # between the starts of a lane that was told once to slow down
GAP_MAX_MS = 60_000
SAME_MS = 1_000  # what was called before the first word came says the same
EASE_MS = 10_000  # without another word, before the gap halves
ARRIVE_MS = 5_000  # a request reaches a busy agent within that, if no answer says it was sooner
# A lease between two steps: a message that got lost is missed no later than this, however long
# the call may take.
STEP_MAX_MS = 20_000
SHORTEN_MAX = 1000  # leases in one go: the next one takes the rest

Step = tuple[AttemptKey, SagaState, str, str]


class Reservations:
    """The scripts, each under its verb. Raises Unavailable while Redis does not answer."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client

    def look(
        self, agents: Sequence[str], payers: Sequence[str] = ()
    ) -> tuple[dict[str, Standing], dict[str, Credit]]:
        """Capacity and judgement of each agent, and each payer's credit delta, at one instant.

        Agents without a pool yet are left out. Read it before the balances that the credit will
        be compared with: a settlement that falls in between then counts twice for a moment
        instead of not at all.
        """
        with self._pipeline() as pipe:
            queue(pipe, "look", [([f"pool:{agent}"], []) for agent in agents])
            for payer in payers:
                pipe.hmget(f"credit:{payer}", "reserved_ub", "released_ub")
            _, looked, *held = _execute(pipe)
        return (
            decode_standings(agents, looked),
            {
                payer: Credit(reserved_ub=int(row[0] or 0), released_ub=int(row[1] or 0))
                for payer, row in zip(payers, held, strict=True)
            },
        )

    def seed(self, agents: Iterable[Agent], known: Mapping[str, Standing], now_ms: int) -> None:
        """Create missing pools, full, with the judgement last known; resize those that exist."""
        fresh = (Pool(y_mt=0, refilled_at_ms=now_ms), Judgement(judged_at_ms=now_ms))
        calls: list[Call] = []
        for agent in agents:
            pool, judged = known.get(agent.id, fresh)
            args = [
                agent.y_max * MT, now_ms, repr(judged.f), repr(judged.s),
                judged.judged_at_ms, judged.samples, pool.next_available_ms,
            ]  # fmt: skip
            calls.append(([f"pool:{agent.id}"], args))
        self._run("seed", calls)

    def reserve(
        self,
        quotes: Sequence[Quote],
        *,
        spendable_ub: Mapping[str, int],
        released_seen_ub: Mapping[str, int],
        lease_until_ms: Mapping[str, int],
        now_ms: int,
    ) -> list[Taken]:
        """Take what was planned, each quote all or nothing.

        `lease_until_ms` is by family: when a call that begins now must be over.
        """
        calls: list[Call] = []
        for quote in quotes:
            agent, work = quote.agent, quote.work
            args = [
                member(work.key), now_ms, _lease_ms(lease_until_ms[work.family], now_ms),
                quote.size_mt,
                quote.y_seen_mt, quote.refill_mt, quote.refilled_seen_ms,
                agent.slots, int(agent.cooldown_s * 1000),
                quote.cost_ub, spendable_ub[work.payer], released_seen_ub[work.payer],
                encode_sheet(quote, gives_back(agent)), lease_until_ms[work.family] - now_ms,
                work.fence, budget_key(work), work.budget_ub,
            ]  # fmt: skip
            keys = [*_keys(agent.id, work.key, work.payer), f"lane:{work.lane}"]
            calls.append((keys, args))
        return [Taken(answer) for answer in self._run("reserve", calls)]

    def fence(self, tokens: Mapping[str, int]) -> None:
        """No reservation in these lanes under an older token from now on (C6)."""
        self._run("fence", [([f"lane:{lane}"], [token]) for lane, token in tokens.items()])

    def slow(self, lanes: Collection[str], now_ms: int) -> None:
        """An agent of each of these lanes said 429: their attempts start further apart (M27)."""
        args = [now_ms, GAP_MS, GAP_MAX_MS, SAME_MS]
        self._run("slow", [([f"lane:{lane}"], args) for lane in lanes])

    def paces(self, lanes: Collection[str], now_ms: int) -> dict[str, int]:
        """Lanes that were told to slow down: before which instant nothing starts in each.

        Where nothing more was said for a while the gap shrinks, and ends.
        """
        calls: list[Call] = [([f"lane:{lane}"], [now_ms, GAP_MS, EASE_MS]) for lane in lanes]
        rows = self._run("ease", calls)
        return {lane: int(row[1]) for lane, row in zip(lanes, rows, strict=True) if row[0]}

    def read(self, keys: Sequence[AttemptKey]) -> list[Saga | None]:
        """Each attempt as it stands, None where it is not in flight."""
        rows = self._run("read", [([f"saga:{member(key)}"], []) for key in keys])
        return [_saga(key, row) for key, row in zip(keys, rows, strict=True)]

    def begin(self, keys: Sequence[AttemptKey], caller: str, now_ms: int) -> list[Saga]:
        """RESERVED to EXECUTING. Returns those that `caller`, and no other, may call.

        The same caller may ask again when it did not hear the answer. The lease lasts as long as
        the call may take. An agent's cooldown counts from here (M27).
        """
        calls: list[Call] = [
            ([f"saga:{member(key)}", LEASES], [member(key), caller, now_ms, ARRIVE_MS])
            for key in keys
        ]
        rows = self._run("begin", calls)
        sagas = [_saga(key, row) for key, row in zip(keys, rows, strict=True)]
        return [saga for saga in sagas if saga is not None]

    def answer(self, replies: Mapping[AttemptKey, Reply], now_ms: int) -> list[bool]:
        """Keep the agent's reply with an EXECUTING attempt; a second reply changes nothing.

        The agent had the call in hand before it answered: a cooldown counts from there, or ends
        when the agent itself says so (Retry-After).
        """
        calls: list[Call] = [
            (
                [f"saga:{member(key)}", LEASES],
                [
                    member(key), encode_reply(reply), now_ms, STEP_MAX_MS, _asked_ms(reply),
                    _in_hand_ms(reply),
                ],
            )
            for key, reply in replies.items()
        ]  # fmt: skip
        return [bool(done) for done in self._run("answer", calls)]

    def begin_judging(self, keys: Sequence[AttemptKey]) -> list[bool]:
        """Note that a validator gets the replies; False where that was noted before, or is over."""
        state = SagaState.EXECUTING
        return self._advance(state, [(key, state, "judging", "1") for key in keys])

    def judge(
        self, verdicts: Mapping[AttemptKey, Verdict], agents: Sequence[str]
    ) -> tuple[list[bool], dict[str, Standing]]:
        """EXECUTING to SUCCEEDED or FAILED: which of them this call decided, and the standing of
        `agents` right after."""
        calls = [
            _advance(
                SagaState.EXECUTING,
                (
                    key,
                    SagaState.SUCCEEDED if verdict.passed else SagaState.FAILED,
                    "verdict",
                    encode_verdict(verdict),
                ),
            )
            for key, verdict in verdicts.items()
        ]
        with self._pipeline() as pipe:
            queue(pipe, "advance", calls)
            queue(pipe, "look", [([f"pool:{agent}"], []) for agent in agents])
            _, decided, _, rows = _execute(pipe)
        return [bool(done) for done in decided], decode_standings(agents, rows)

    def give_up(self, sagas: Sequence[Saga], verdict: Verdict) -> list[bool]:
        """RESERVED or EXECUTING to FAILED, for those that still stand as they were read."""
        text = encode_verdict(verdict)
        calls: list[Call] = [
            (
                [f"saga:{member(saga.work.key)}"],
                [saga.state, 0 if saga.reply is None else 1, text],
            )
            for saga in sagas
        ]
        return [bool(done) for done in self._run("give_up", calls)]

    def note_penalty(self, penalties: Mapping[AttemptKey, Penalty]) -> None:
        """Keep with a FAILED attempt what the failure did to its agent's judgement."""
        steps = [
            (key, SagaState.FAILED, "penalty", encode_penalty(penalty))
            for key, penalty in penalties.items()
        ]
        self._advance(SagaState.FAILED, steps)

    def release(self, sagas: Sequence[Saga], *, settled: bool) -> None:
        """End attempts: capacity returns to the pool, the credit delta is gone (M05)."""
        calls: list[Call] = []
        for saga in sagas:
            args = [
                member(saga.work.key),
                saga.size_mt if saga.gives_back else 0,
                -saga.cost_ub,
                saga.cost_ub if settled else 0,
                budget_key(saga.work),
            ]
            calls.append((_keys(saga.agent, saga.work.key, saga.work.payer), args))
        self._run("release", calls)

    def store_judgements(self, changes: Mapping[str, tuple[Judgement, Judgement]]) -> list[str]:
        """Agents whose judgement was replaced by someone else between read and store.

        `changes` maps an agent to (as read, as it should become).
        """
        calls = [
            (
                [f"pool:{agent}"],
                [
                    before.version, after.version, repr(after.f), repr(after.s),
                    after.judged_at_ms, after.samples,
                ],
            )
            for agent, (before, after) in changes.items()
        ]  # fmt: skip
        stored = self._run("judge", calls)
        return [agent for agent, done in zip(changes, stored, strict=True) if not done]

    def rest(self, asked_ms: Mapping[str, int], now_ms: int) -> None:
        """These agents said 429: each rests as asked, and longer each time in a row (M27)."""
        calls: list[Call] = [
            ([f"pool:{agent}"], [now_ms, asked, REST_MS, REST_MAX_MS, SAME_MS])
            for agent, asked in asked_ms.items()
        ]
        self._run("rest", calls)

    def set_back(self, agents: Sequence[str], now_ms: int) -> None:
        """Bring pools whose instants lie ahead of every clock back to the present."""
        self._run("set_back", [([f"pool:{agent}"], [now_ms]) for agent in agents])

    def shorten_leases(self, latest_ms: int) -> None:
        """End leases that run longer than any lease can at that instant."""
        with self._pipeline() as pipe:
            pipe.zrange(LEASES, f"({latest_ms}", "+inf", byscore=True, offset=0, num=SHORTEN_MAX)
            late = _execute(pipe)[0]
        if late:
            with self._pipeline() as pipe:
                pipe.zadd(LEASES, dict.fromkeys(late, latest_ms), xx=True, lt=True)
                _execute(pipe)

    def overdue(self, now_ms: int, limit: int) -> list[AttemptKey]:
        """Attempts whose lease has ended, oldest first."""
        with self._pipeline() as pipe:
            pipe.zrange(LEASES, "-inf", now_ms, byscore=True, offset=0, num=limit)
            return [parse_member(text) for text in _execute(pipe)[0]]

    def extend(self, keys: Sequence[AttemptKey], lease_until_ms: int) -> list[int]:
        """More time for attempts in flight: how often each has got some; 0 if it is none."""
        calls: list[Call] = [
            ([f"saga:{member(key)}", LEASES], [member(key), lease_until_ms]) for key in keys
        ]
        return [int(times) for times in self._run("extend", calls)]

    def count_in_flight(self) -> int:
        """Attempts between reservation and release."""
        with self._pipeline() as pipe:
            pipe.zcard(LEASES)
            return int(_execute(pipe)[0])

    def check_writes(self) -> None:
        """Raises Unavailable unless Redis takes changes: with a full disk it only answers."""
        with self._pipeline() as pipe:
            pipe.set(PROBE, "", px=PROBE_MS)
            _execute(pipe)

    def _advance(self, state: SagaState, steps: Sequence[Step]) -> list[bool]:
        return [
            bool(done) for done in self._run("advance", [_advance(state, step) for step in steps])
        ]

    def _run(self, verb: str, calls: Sequence[Call]) -> list[Any]:
        """One script on a set of calls, in one round trip; the answers in order."""
        with self._pipeline() as pipe:
            queue(pipe, verb, calls)
            answers: list[Any] = _execute(pipe)[1]
        return answers

    def _pipeline(self) -> Any:
        return self._redis.pipeline(transaction=False)


def _execute(pipe: Any) -> list[Any]:
    try:
        return list(pipe.execute())
    except AWAY as error:
        raise unavailable(error) from error


def _advance(state: SagaState, step: Step) -> Call:
    key, to, field, value = step
    return [f"saga:{member(key)}"], [state, to, field, value]


def _lease_ms(until_ms: int, now_ms: int) -> int:
    return min(until_ms, now_ms + STEP_MAX_MS)


def _asked_ms(reply: Reply) -> int | str:
    return "" if reply.retry_after_s is None else int(reply.retry_after_s * 1000)


def _in_hand_ms(reply: Reply) -> int:
    """How long ago its agent had the call in hand at the latest."""
    return max(0, int(reply.latency_s * 1000) - ARRIVE_MS)


def _saga(key: AttemptKey, row: Sequence[str]) -> Saga | None:
    return decode_saga(key, dict(zip(row[::2], row[1::2], strict=True)))


def _keys(agent: str, key: AttemptKey, payer: str) -> list[str]:
    return [f"pool:{agent}", f"saga:{member(key)}", f"credit:{payer}", LEASES]
