"""The main job on real input: the Python standard library's modules through the sample fleet.

Each module's source is one task: say which functions, classes and imports are in it. Five HTTP
agents do it, one of them well; the validator checks every answer against the source itself. Then
the epoch is closed, and a receipt verified.
"""

from __future__ import annotations

import sysconfig
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from ledger import accounts, attempts, check, epochs, intake
from ledger.epochs import Totals
from ledger.intake import Accepted, Submission
from ledger.model import Json, Outcome
from scheduler.pool import MT, UB, cost_ub
from tasks.context import Context
from workers.demo.proof import Proof, prove
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Closing:
    """The end of the epoch: what it took, and who has what then.

    `size` is how many leaves the log had then; `broken` what is not as it must be.
    """

    epoch: int
    size: int
    totals: Totals
    clients_ub: int
    agents_ub: int
    commons_ub: int
    burned_ub: int
    minted_ub: int
    broken: Sequence[str]


Event = Running | Decision | Progress | Reckoning | Closing | Proof


def modules(count: int) -> list[Path]:
    """The first modules of the standard library by name, leaving out the very long."""
    root = Path(sysconfig.get_paths()["stdlib"])
    found = sorted([*root.glob("*.py"), *root.glob("[a-z]*/[!_]*.py")])
    readable = [path for path in found if _is_source(path)]
    # Spread over the whole library rather than its first letters.
    step = max(1, len(readable) // count)
    return readable[::step][:count]


def play(count: int) -> Generator[Event, None, None]:
    """Run the job; yields the addresses, then progress and decisions, then the settlement, the end
    of the epoch, and what a receipt proves."""
    with ExitStack() as stack:
        addresses, context = stack.enter_context(live_stack(["--fleet", "sample"]))
        yield addresses
        started = time.monotonic()
        since = context.now()
        asked = [Submission(family="outline", payload=_payload(path)) for path in modules(count)]
        tasks = intake.submit(context.engine, "R", asked, since)
        yield from _watch(context, len(tasks), since, started)
        end = _reckoning(context, time.monotonic() - started)
        yield end
        closing = _closing(context, end)
        yield closing
        yield prove(context, _settled(context, tasks), closing.size)


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
    """Whether it is known what a failure did to its agent's price."""
    return row["state"] == "ABORTED" and None not in (row["agent"], row["f_before"])


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


def _closing(context: Context, end: Reckoning) -> Closing:
    """Close the open epoch, which holds all that was reckoned."""
    number = epochs.opened(context.engine)
    closed = epochs.close(context.engine, number, context.now())
    if closed is None or closed.size is None or closed.totals is None:
        raise DemoFailed(f"epoch {number} was closed by another")
    books = {name: int(value) for name, value in check.totals(context.engine).items()}
    violations = [f"{v.subject}: {v.violation}" for v in check.violations(context.engine)]
    return Closing(
        epoch=number,
        size=closed.size,
        totals=closed.totals,
        clients_ub=books["clients_ub"],
        agents_ub=books["agents_ub"],
        commons_ub=books["commons_ub"],
        burned_ub=books["burned_ub"],
        minted_ub=books["minted_ub"],
        broken=[*broken(end, closed.totals, books), *violations],
    )


def broken(end: Reckoning, totals: Totals, books: Mapping[str, int]) -> Iterator[str]:
    """What in an epoch's totals, and in the books after its close, must not be."""
    if totals.settled != end.committed:
        yield f"the epoch holds {totals.settled} settlements, not {end.committed}"
    if totals.burned_ub != end.burned_ub:
        yield f"in the epoch {totals.burned_ub} µB burned, not {end.burned_ub}"
    cleared_ub = totals.demurrage_ub + totals.charge_ub
    if books["commons_ub"] != cleared_ub:
        yield f"the commons have {books['commons_ub']} µB, not the {cleared_ub} that were taken"
    held_ub = sum(books[name] for name in ("clients_ub", "agents_ub", "commons_ub", "burned_ub"))
    if not held_ub == books["minted_ub"] == end.minted_ub:
        yield f"all accounts have {held_ub} µB of the {end.minted_ub} that were minted"


def _settled(context: Context, tasks: Sequence[Accepted]) -> str:
    """The first of these tasks that was settled."""
    rows = intake.task_rows(context.engine, [item.task for item in tasks])
    for item in tasks:
        if rows[item.task]["state"] == "COMMITTED":
            return item.task
    raise DemoFailed("no task was settled, so there is no receipt to verify")


def _payload(path: Path) -> Json:
    return {"name": path.stem, "source": path.read_text()}


def _is_source(path: Path) -> bool:
    try:
        return 0 < len(path.read_text()) < SOURCE_MAX_BYTES
    except UnicodeDecodeError:
        return False
