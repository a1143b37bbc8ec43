"""The metrics of each source, built from what it says now. Raises Unavailable when it is away."""

from __future__ import annotations

from datetime import datetime
from importlib.metadata import version

import redis
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from beat_schedule import beat_schedule
from ledger import gauges
from ledger.db import Ledger
from ledger.gauges import Books, LogState
from ledger.model import TaskState, Wait
from ledger.proof.policy import Policy
from scheduler.queues import depths
from scheduler.step_times import StepTimes
from tasks.context import Context
from workers.prices import SIZE_DEFAULT, price_list
from workers.stack import POOLS
from workers.tallies import END, SIZES, TIMES_US, Histogram, histogram
from workers.witnesses import judge

SAGA = ("reserve", "execute", "validate", "commit", "abort")
CRON = (*(entry["task"].rpartition(".")[2] for entry in beat_schedule.values()), "submit")
STEPS = (*SAGA, *CRON)
AGENT_STATES = ("open", "resting", "full", "suspended")
US = 1_000_000
AGENT_GAUGES = {
    "price_microcredits": f"What the router compares, for {SIZE_DEFAULT} tokens, in µB.",
    "cost_microcredits": f"What would be paid for {SIZE_DEFAULT} tokens, in µB.",
    "in_flight": "Attempts that it has.",
    "capacity_free_tokens": "y.",
    "capacity_tokens": "y_max.",
    "risk_premium_ratio": "f.",
    "quality_ratio": "s, from 0 to 1.",
}
STEP_SERIES = {
    "chunk_us": ("step_chunk_seconds", "Time that a step took for a chunk.", TIMES_US, US),
    "attempt_us": (
        "step_attempt_seconds",
        "Time that an attempt spent in a step; in execute, that its call took.",
        TIMES_US,
        US,
    ),
    "chunk_size": ("step_chunk_attempts", "Attempts in a chunk.", SIZES, 1),
}


def build() -> Metric:
    """Which program this is."""
    about = GaugeMetricFamily(
        "clearlane_build_info", "Always 1; the version is its label.", labels=["version"]
    )
    about.add_metric([version("clearlane")], 1)
    return about


def ledger(context: Context, engine: Ledger) -> list[Metric]:
    """What the ledger knows without counting."""
    now = context.now()
    line, books = gauges.line(engine, now), gauges.books(engine)
    lag_s = 0.0 if line.since is None else max(0.0, (now - line.since).total_seconds())
    return [
        _gauge("tasks_in_flight", "Tasks that are claimed and have not ended.", line.in_flight),
        _gauge("dispatch_lag_seconds", "How long the first ready task waits for a claim.", lag_s),
        _counter("settlements", "Tasks that were paid.", books.settlements),
        _counter("ledger_transactions", "Transactions of the ledger.", books.transactions),
        _counter("minted_microcredits", "Credit that was created, in µB.", books.minted_ub),
        _counter("burned_microcredits", "What was destroyed of it.", books.burned_ub),
        _gauge("registry_version", "Grows when the configuration does.", books.registry_version),
        _held(books),
    ]


def _held(books: Books) -> Metric:
    held = GaugeMetricFamily(
        "clearlane_held_microcredits", "What accounts hold together, in µB.", labels=["holder"]
    )
    held.add_metric(["clients"], books.clients_ub)
    held.add_metric(["agents"], books.agents_ub)
    held.add_metric(["commons"], books.commons_ub)
    return held


def log(context: Context, engine: Ledger) -> list[Metric]:
    """How long the log is, how far it is signed, and with a policy how far that is final."""
    now, state = context.now(), gauges.log(engine)
    open_s = _age_s(now, state.opened_at) if state.size else 0.0
    policy = context.notary.policy() if context.notary is not None else None
    values: dict[str, tuple[str, float | None]] = {
        "log_leaves": ("Entries of the log.", state.size),
        "log_checkpoint_leaves": ("Entries that the newest checkpoint holds.", state.signed or 0),
        "log_checkpoint_age_seconds": ("Since it was signed.", _age_s(now, state.signed_at)),
        "epoch": ("The open epoch.", state.epoch),
        "epoch_open_seconds": ("Since it was opened; 0 in an empty log.", open_s),
    }
    if policy is not None:
        waits_s = _age_s(now, state.waits_since) or 0.0
        values |= {
            "log_pending_leaves": ("Entries not final yet.", state.size - (state.final or 0)),
            "log_pending_seconds": ("Since the first checkpoint waits for the quorum.", waits_s),
            "log_quorum_age_seconds": ("Since it has signed.", _age_s(now, state.quorum_at)),
        }
        if state.closed is not None:
            about = "Whether the quorum has signed the last closed epoch."
            values["epoch_closed_final"] = (about, state.closed_final)
    found = [
        _gauge(name, about, value) for name, (about, value) in values.items() if value is not None
    ]
    return found if policy is None else [*found, *_witnesses(engine, policy, state)]


def _witnesses(engine: Ledger, policy: Policy, state: LogState) -> list[Metric]:
    behind = GaugeMetricFamily(
        "clearlane_witness_behind_leaves",
        "Entries of the log that a witness has not signed.",
        labels=["witness"],
    )
    refuses = GaugeMetricFamily(
        "clearlane_witness_accuses",
        "1 when it answered that the log is not what it has signed.",
        labels=["witness"],
    )
    for found in judge(engine, policy, state).witnesses:
        behind.add_metric([found.witness.name], found.behind)
        refuses.add_metric([found.witness.name], found.accuses)
    return [behind, refuses]


def _age_s(now: datetime, then: datetime | None) -> float | None:
    return None if then is None else max(0.0, (now - then).total_seconds())


def tasks(context: Context, engine: Ledger) -> list[Metric]:
    """Tasks by what became of them. Its cost grows with those that wait."""
    now, found = context.now(), gauges.waiting(engine)
    waiting = GaugeMetricFamily(
        "clearlane_tasks_waiting", "Tasks that wait, by reason.", labels=["reason"]
    )
    oldest = GaugeMetricFamily(
        "clearlane_oldest_waiting_age_seconds",
        "Since the submission of the first task that waits for this reason.",
        labels=["reason"],
    )
    for reason in Wait:
        if reason is not Wait.ATTEMPT:
            row = found.get(reason)
            age_s = (now - row.since).total_seconds() if row else 0.0
            waiting.add_metric([str(reason)], row.tasks if row else 0)
            oldest.add_metric([str(reason)], max(0.0, age_s))
    ended = CounterMetricFamily(
        "clearlane_tasks_unsettled",
        "Tasks that ended without being paid, by their state.",
        labels=["state"],
    )
    unsettled = gauges.unsettled(engine)
    for state in (TaskState.QUARANTINED, TaskState.CANCELLED, TaskState.EXPIRED):
        ended.add_metric([state.lower()], unsettled.get(state, 0))
    return [waiting, oldest, ended]


def fleet(context: Context) -> list[Metric]:
    """Every agent as the price list shows it."""
    families = {
        name: GaugeMetricFamily(f"clearlane_agent_{name}", about, labels=["agent"])
        for name, about in AGENT_GAUGES.items()
    }
    states = GaugeMetricFamily(
        "clearlane_agent_state", "1 for the state it is in.", labels=["agent", "state"]
    )
    for row in price_list(context):
        values = {
            "price_microcredits": row.price_ub,
            "cost_microcredits": row.cost_ub,
            "in_flight": row.in_flight,
            "capacity_free_tokens": row.y,
            "capacity_tokens": row.y_max,
            "risk_premium_ratio": row.f,
            "quality_ratio": row.s,
        }
        for name, value in values.items():
            if value is not None:  # no price: it has no room for that size
                families[name].add_metric([row.agent], value)
        for state in AGENT_STATES:
            states.add_metric([row.agent, state], row.state == state)
    in_flight = context.reservations.count_in_flight()
    about = "Attempts between reservation and release."
    return [*families.values(), states, _gauge("attempts_in_flight", about, in_flight)]


def queues(broker: redis.Redis) -> list[Metric]:
    """Messages on the conveyor."""
    found = depths(broker, POOLS)
    waiting = GaugeMetricFamily(
        "clearlane_queue_messages", "Messages that wait in a queue.", labels=["queue"]
    )
    for queue, count in found.waiting.items():
        waiting.add_metric([queue], count)
    held = _gauge("queue_held_messages", "Messages that workers hold.", found.held)
    return [waiting, held]


def steps(times: StepTimes) -> list[Metric]:
    """What the workers measured."""
    counts = times.read()
    families = []
    for series, (name, about, bounds, unit) in STEP_SERIES.items():
        family = HistogramMetricFamily(f"clearlane_{name}", about, labels=["step"])
        for step in STEPS:
            found = histogram(counts, f"{series}:{step}", bounds)
            family.add_metric([step], _buckets(found, unit), found.total / unit)
        families.append(family)
    settled = histogram(counts, "settle_us", TIMES_US)
    failed = CounterMetricFamily(
        "clearlane_step_failures", "Chunks whose step ended with an error.", labels=["step"]
    )
    for step in STEPS:
        failed.add_metric([step], counts.get(f"failed:{step}", 0))
    about = "From submission to settlement."
    task = HistogramMetricFamily("clearlane_task_seconds", about, labels=[])
    task.add_metric([], _buckets(settled, US), settled.total / US)
    lost = _counter("attempts_lost", "Attempts that were given up.", counts.get("lost", 0))
    return [*families, task, failed, lost]


def _buckets(found: Histogram, unit: int) -> list[tuple[str, float]]:
    return [
        ("+Inf" if bound == END else str(int(bound) / unit), float(count))
        for bound, count in found.buckets.items()
    ]


def _gauge(name: str, about: str, value: float) -> Metric:
    return GaugeMetricFamily(f"clearlane_{name}", about, value=value)


def _counter(name: str, about: str, value: float) -> Metric:
    return CounterMetricFamily(f"clearlane_{name}", about, value=value)
