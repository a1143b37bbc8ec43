"""The main job on real input: the Python standard library's modules through the sample fleet.

Each module's source is one task: say which functions, classes and imports are in it. Five HTTP
agents do it, one of them well; the validator checks every answer against the source itself.
"""

from __future__ import annotations

import sysconfig
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from ledger import accounts, attempts, check, intake
from ledger.intake import Submission
from ledger.model import Json, Outcome
from scheduler.pool import MT, UB, cost_ub
from tasks.context import Context
from workers.demo.stage import DemoFailed, live_stack
from workers.locate import Running
from workers.prices import price_list

SOURCE_MAX_BYTES = 60_000
SIZE = 100  # tokens of every task
PATIENCE_S = 90.0  # the whole library takes a few seconds; a fleet that takes this long is stuck
LOOK_S = 0.25


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """Something worth telling: what an agent did and what that did to its price."""

    at_s: float
    agent: str
    what: str
    price_before: float  # B, of an idle agent's next task
    price_after: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How many tasks have ended, of how many."""

    at_s: float
    ended: int
    total: int
    in_flight: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Earned:
    """One agent's day."""

    agent: str
    tries: int
    passed: int
    failed: int
    paid_ub: int
    price_ub: float | None
    f: float
    s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Reckoning:
    """How it ended: who was paid, what was burned, whether everything adds up."""

    took_s: float
    committed: int
    quarantined: int
    agents: Sequence[Earned]
    client_ub: int
    minted_ub: int
    burned_ub: int
    violations: Sequence[str]


Event = Running | Decision | Progress | Reckoning


def modules(count: int) -> list[Path]:
    """The first modules of the standard library by name, leaving out the very long."""
    root = Path(sysconfig.get_paths()["stdlib"])
    found = sorted([*root.glob("*.py"), *root.glob("[a-z]*/[!_]*.py")])
    readable = [path for path in found if _is_source(path)]
    # Spread over the whole library rather than its first letters.
    step = max(1, len(readable) // count)
    return readable[::step][:count]


def play(count: int) -> Generator[Event, None, None]:
    """Run the job; yields the addresses, then progress and decisions, then the settlement."""
    with ExitStack() as stack:
        addresses, context = stack.enter_context(live_stack(["--fleet", "sample"]))
        yield addresses
        started = time.monotonic()
        since = context.now()
        asked = [Submission(family="outline", payload=_payload(path)) for path in modules(count)]
        tasks = intake.submit(context.engine, "R", asked, since)
        yield from _watch(context, len(tasks), since, started)
        yield _reckoning(context, time.monotonic() - started)


def _watch(
    context: Context, total: int, since: datetime, started: float
) -> Iterator[Progress | Decision]:
    """Progress a few times a second, and the failures that changed a price."""
    while True:
        at_s = time.monotonic() - started
        rows = attempts.ended_since(context.engine, since, limit=1000)
        if rows:
            since = rows[-1]["ended_at"]
        yield from (_decision(context, row, at_s) for row in rows if _is_telling(row))
        counts = {
            (row["state"], row["wait"]): row["tasks"] for row in intake.task_counts(context.engine)
        }
        ended = sum(tasks for (state, _), tasks in counts.items() if state != "INIT")
        in_flight = counts.get(("INIT", "attempt"), 0)
        yield Progress(at_s=at_s, ended=ended, total=total, in_flight=in_flight)
        if ended == total:
            return
        if at_s > PATIENCE_S:
            raise DemoFailed(f"{total - ended} tasks had not ended after {PATIENCE_S:.0f} s")
        time.sleep(LOOK_S)


def _is_telling(row: dict[str, Any]) -> bool:
    return row["state"] == "ABORTED" and row["agent"] is not None


def _decision(context: Context, row: dict[str, Any], at_s: float) -> Decision:
    agent = context.registry().agents[row["agent"]]
    idle = cost_ub(agent.k, agent.y_max * MT, SIZE * MT) / UB
    words = {
        Outcome.OK: "answered 200 with a wrong result",
        Outcome.GARBAGE: "answered with garbage",
        Outcome.TIMEOUT: "did not answer in time",
        Outcome.RATE_LIMITED: "asked to be left alone (429)",
    }
    outcome = Outcome(row["outcome"])
    return Decision(
        at_s=at_s,
        agent=row["agent"],
        what=words.get(outcome, f"failed ({outcome})"),
        price_before=idle * (1 + row["f_before"]) / row["s_before"],
        price_after=idle * (1 + row["f_after"]) / row["s_after"],
    )


def _reckoning(context: Context, took_s: float) -> Reckoning:
    results = {row["agent"]: row for row in attempts.agent_results(context.engine)}
    balances = {row["account"]: row["balance_ub"] for row in accounts.balances(context.engine)}
    totals = check.totals(context.engine)
    counts: dict[str, int] = {}
    for row in intake.task_counts(context.engine):
        counts[row["state"]] = counts.get(row["state"], 0) + row["tasks"]
    return Reckoning(
        took_s=took_s,
        committed=counts.get("COMMITTED", 0),
        quarantined=counts.get("QUARANTINED", 0),
        agents=[
            Earned(
                agent=price.agent,
                tries=results.get(price.agent, {}).get("tries", 0),
                passed=results.get(price.agent, {}).get("passed", 0),
                failed=results.get(price.agent, {}).get("failed", 0),
                paid_ub=balances[f"agent:{price.agent}"],
                price_ub=price.price_ub,
                f=price.f,
                s=price.s,
            )
            for price in price_list(context, SIZE, "outline")
        ],
        client_ub=balances["client:R"],
        minted_ub=totals["minted_ub"],
        burned_ub=totals["burned_ub"],
        violations=[f"{v.subject}: {v.violation}" for v in check.violations(context.engine)],
    )


def _payload(path: Path) -> Json:
    return {"name": path.stem, "source": path.read_text()}


def _is_source(path: Path) -> bool:
    try:
        return 0 < len(path.read_text()) < SOURCE_MAX_BYTES
    except UnicodeDecodeError:
        return False
