"""`saga.validate`: judge the replies of a chunk, and with them the agents.

EXECUTING to SUCCEEDED or FAILED (paper sections 5 and 6.2; rows M12, M13, M14). The verdict is
stored once; only who stored it lets the plug-ins adjust the agent's risk and quality.

An installed validator may end its process (`os._exit`, a crash in C). Which replies it was given
is therefore noted first: whoever finds one noted judges it apart, and that validator from then on.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any

from celery import shared_task

from ledger import attempts
from ledger.model import (
    LANE_DEFAULT,
    AttemptKey,
    Family,
    Json,
    Outcome,
    Penalty,
    Reply,
    Routing,
    Verdict,
)
from ledger.registry import Registry
from scheduler.hooks import Hooks
from scheduler.judgement import Adjustment, Judgement, adjust, premium
from scheduler.saga import Saga
from scheduler.standing import Standing
from tasks.apart import apart
from tasks.context import Context, current
from tasks.messages import ABORT, COMMIT, VALIDATE, received, send
from tasks.patience import patient
from tasks.verdict import judge, reads_payload

JUDGE_ROUNDS_MAX = 5  # tries against another worker that judges the same agent

DEADLY = "its validator ended the process, or had to be ended with it"
_deadly: set[str] = set()  # validators that ended a process, as this one has seen


@shared_task(name=VALIDATE)
def validate(message: Any) -> None:
    """Judge a chunk; pass what holds to commit, the rest to abort."""
    _validate(current(), received(VALIDATE, message))


@patient
def _validate(context: Context, keys: Sequence[AttemptKey]) -> None:
    found = context.reservations.read(keys) if keys else []
    sagas = {
        saga.work.key: (saga, saga.reply)
        for saga in found
        if saga is not None and saga.reply is not None and saga.verdict is None
    }
    verdicts = _verdicts(context, sagas)
    if not verdicts:
        return
    agents = sorted({saga.agent for saga, _ in sagas.values()})
    decided, standings = context.reservations.judge(verdicts, agents)
    fresh = [
        (*sagas[key], verdict)
        for (key, verdict), mine in zip(verdicts.items(), decided, strict=True)
        if mine
    ]
    # What passed need not wait for its agent's judgement; what failed carries it in its record.
    send(COMMIT, [saga.work.key for saga, _, verdict in fresh if verdict.passed])
    _judge_agents(context, fresh, standings)
    _rest(context, fresh)
    send(ABORT, [saga.work.key for saga, _, verdict in fresh if not verdict.passed])


def _verdicts(
    context: Context, sagas: Mapping[AttemptKey, tuple[Saga, Reply]]
) -> dict[AttemptKey, Verdict]:
    """The verdict on each reply; payloads are read only where somebody compares with them."""
    families = context.registry(
        families={saga.work.family for saga, _ in sagas.values()},
        agents={saga.agent for saga, _ in sagas.values()},
    ).families
    installed = [
        key
        for key, (saga, reply) in sagas.items()
        if reply.outcome is Outcome.OK and reads_payload(families[saga.work.family].validator)
    ]
    if not installed:
        return {
            key: judge(families[saga.work.family], None, reply)
            for key, (saga, reply) in sagas.items()
        }
    payloads = attempts.payloads(context.engine, [key.task for key in installed])
    noted = context.reservations.begin_judging(installed)
    again = {key for key, mine in zip(installed, noted, strict=True) if not mine}
    return {
        key: (_judge_apart if key in again or repr(family.validator) in _deadly else judge)(
            family, payloads.get(key.task), reply
        )
        for key, (saga, reply) in sagas.items()
        for family in (families[saga.work.family],)
    }


def _judge_apart(family: Family, payload: Json, reply: Reply) -> Verdict:
    """As `judge`, and a validator that ends the process only fails the task."""
    verdict = apart(partial(judge, family, payload, reply))
    if verdict is None:
        _deadly.add(repr(family.validator))
        return Verdict(passed=False, reason=DEADLY)
    return verdict


Judged = tuple[Saga, Reply, Verdict]


Asked = Sequence[tuple[Saga, Sequence[Adjustment]]]
"""Attempts, and what the plug-ins ask for after each."""


def _judge_agents(
    context: Context, fresh: Sequence[Judged], standings: Mapping[str, Standing]
) -> None:
    """Fold what the plug-ins say into each agent's judgement, by compare-and-set per agent."""
    registry, hooks = context.registry(), context.hooks
    asked = [(judged[0], _adjustments(registry, hooks, judged)) for judged in fresh]
    failed = {saga.work.key: saga.agent for saga, _, verdict in fresh if not verdict.passed}
    todo = {saga.agent for saga, changes in asked if changes} | set(failed.values())
    penalties: dict[AttemptKey, Penalty] = {}
    for _ in range(JUDGE_ROUNDS_MAX):
        if not todo:
            break
        before = {agent: standings[agent][1] for agent in todo & standings.keys()}
        after, found = _folded(asked, failed, before, registry.routing, context.now_ms())
        penalties |= found
        changed = {
            agent: (before[agent], now) for agent, now in after.items() if now != before[agent]
        }
        todo = set(context.reservations.store_judgements(changed)) if changed else set()
        if todo:
            standings, _ = context.reservations.look(list(todo))
    known = {key: penalty for key, penalty in penalties.items() if failed[key] not in todo}
    if known:
        context.reservations.note_penalty(known)


def _folded(
    asked: Asked,
    failed: Collection[AttemptKey],
    before: Mapping[str, Judgement],
    routing: Routing,
    now_ms: int,
) -> tuple[dict[str, Judgement], dict[AttemptKey, Penalty]]:
    """The judgement of each of these agents after the attempts, one after the other, and what each
    failure did to it: nothing, where no plug-in asked for a change. Pure."""
    after, penalties = dict(before), {}
    for saga, changes in asked:
        was = after.get(saga.agent)
        if was is None:
            continue
        now = adjust(was, changes, routing, now_ms) if changes else was
        after[saga.agent] = now
        if saga.work.key in failed:
            # At this instant: what f had decayed to, not what it was when it was stored.
            penalties[saga.work.key] = Penalty(
                f_before=premium(was, routing, now_ms),
                f_after=premium(now, routing, now_ms),
                s_before=was.s,
                s_after=now.s,
            )
    return after, penalties


def _adjustments(registry: Registry, hooks: Hooks, judged: Judged) -> list[Adjustment]:
    """What all plug-ins ask for, in the order of the task's life."""
    saga, reply, verdict = judged
    agent = registry.agents.get(saga.agent)
    if agent is None:
        return []
    asked = hooks.adjustments("after_task", work=saga.work, agent=agent, reply=reply)
    if reply.outcome is Outcome.TIMEOUT:
        asked += hooks.adjustments("on_timeout", work=saga.work, agent=agent)
    return asked + hooks.adjustments(
        "on_validate", work=saga.work, agent=agent, reply=reply, verdict=verdict
    )


def _rest(context: Context, fresh: Sequence[Judged]) -> None:
    """An agent that said 429 is left alone at least as long as it asked, and its lane slows down.

    What shares a lane shares a limit: whoever is asked next would only be told the same (M27). The
    default lane is that of agents which share nothing.
    """
    now_ms, agents = context.now_ms(), context.registry().agents
    asked_ms: dict[str, int] = {}
    for saga, reply, _ in fresh:
        if reply.outcome is Outcome.RATE_LIMITED:
            wait_ms = int((reply.retry_after_s or 0.0) * 1000)
            asked_ms[saga.agent] = max(asked_ms.get(saga.agent, 0), wait_ms)
    if not asked_ms:
        return
    context.reservations.rest(asked_ms, now_ms)
    lanes = {agents[name].lane for name in asked_ms if name in agents} - {LANE_DEFAULT}
    if lanes:
        context.reservations.slow(lanes, now_ms)
