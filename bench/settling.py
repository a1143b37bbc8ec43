"""Section `settling`: settlements by chunks of 64, beside pgledger's arrays of 64 transfers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import psycopg
from sqlalchemy import Engine

from bench.processes import meter
from bench.section import Bench, Figures, Grid, Section, Trial, by_name
from bench.stand import AGENTS, CLIENT, database, echo_agents, empty_database, submit
from ledger import attempts
from ledger.model import AttemptKey, Settlement
from ledger.postings import client_account
from ledger.settle import settle

CHUNK = 64
COST_UB = 1_000
WARM_CHUNKS = 5
TRANSFERS = """
SELECT count(*) FROM pgledger_create_transfers(
    transfer_requests => (
        SELECT array_agg(ROW(f, t, a)::transfer_request)
        FROM unnest(%s::text[], %s::text[], %s::numeric[]) AS u (f, t, a)
    ),
    event_at => NULL
)
"""


def claimed(engine: Engine, chunks: int) -> list[list[Settlement]]:
    """New tasks, claimed and ready to be settled, in chunks."""
    submit(engine, chunks * CHUNK)
    claims = attempts.claim(
        engine,
        limit=chunks * CHUNK,
        hold={"default": 10**9},
        margin_s=3600.0,
        now=datetime.now(UTC),
    )
    found = [_settlement(claim.key, number) for number, claim in enumerate(claims)]
    return [found[start : start + CHUNK] for start in range(0, len(found), CHUNK)]


def _settlement(key: AttemptKey, number: int) -> Settlement:
    return Settlement(
        key=key,
        payer=client_account(CLIENT),
        agent=f"A{number % AGENTS}",
        size=100,
        cost_ub=COST_UB,
        output={"n": 1},
        latency_s=0.1,
        reason="passed none",
    )


def settled_s(engine: Engine, chunks: Sequence[Sequence[Settlement]]) -> float:
    """Seconds to settle them one chunk after the other."""
    started = time.perf_counter()
    for chunk in chunks:
        settle(engine, chunk, now=datetime.now(UTC))
    return time.perf_counter() - started


def _ours(bench: Bench, number: int) -> Trial:
    chunks = bench.size(300, 20)
    with database(bench, f"settling_{number}", echo_agents()) as (_, engine):
        settled_s(engine, claimed(engine, WARM_CHUNKS))
        todo = claimed(engine, chunks)
        used = meter({})
        wall_s = settled_s(engine, todo)
        postgres_s = used()["postgres"]
    count = chunks * CHUNK
    return {"per_s": count / wall_s, "postgres_us": postgres_s / count * 1e6}


def load_pgledger(url: str, path: Path) -> None:
    """Its schema, after the functions that it ships beside itself."""
    with psycopg.connect(url, autocommit=True) as connection:
        for file in (*sorted((path.parent / "vendor").glob("**/*.sql")), path):
            connection.execute(file.read_text().encode())


def _accounts(url: str, count: int) -> list[str]:
    with psycopg.connect(url, autocommit=True) as connection:
        rows = connection.execute(
            "SELECT a.id FROM generate_series(1, %s) n, "
            "LATERAL pgledger_create_account('a' || n, 'B') a",
            (count,),
        ).fetchall()
    return [row[0] for row in rows]


def _transfers_s(url: str, payers: Sequence[str], payees: Sequence[str], chunks: int) -> float:
    """Seconds for `chunks` arrays of transfers, after a warm-up."""
    values = (
        [payers[number % len(payers)] for number in range(CHUNK)],
        [payees[number % len(payees)] for number in range(CHUNK)],
        [COST_UB] * CHUNK,
    )
    with psycopg.connect(url, autocommit=True) as connection:
        for _ in range(WARM_CHUNKS):
            connection.execute(TRANSFERS, values)
        started = time.perf_counter()
        for _ in range(chunks):
            connection.execute(TRANSFERS, values)
        return time.perf_counter() - started


def _pgledger(bench: Bench, number: int, path: Path) -> dict[str, Trial]:
    """The same accounts on one connection; accounts of their own on two."""
    chunks = bench.size(150, 10)
    with empty_database(bench, f"pgledger_{number}") as url:
        load_pgledger(url, path)
        payer, *payees = _accounts(url, 1 + AGENTS)
        spread = _accounts(url, 4 * CHUNK)
        used = meter({})
        one_s = _transfers_s(url, [payer], payees, chunks)
        postgres_us = used()["postgres"] / ((chunks + WARM_CHUNKS) * CHUNK) * 1e6
        halves = (spread[: 2 * CHUNK], spread[2 * CHUNK :])
        with ThreadPoolExecutor(2) as pool:
            walls_s = list(
                pool.map(lambda half: _transfers_s(url, half[:CHUNK], half[CHUNK:], chunks), halves)
            )
    count = chunks * CHUNK
    return {
        "one connection, the same accounts": {
            "per_s": count / one_s,
            "postgres_us": postgres_us,
        },
        "two connections, accounts of their own": {"per_s": 2 * count / max(walls_s)},
    }


def measure(bench: Bench, number: int) -> Trial:
    """Ours, then theirs, each on a database of its own."""
    found: Trial = {"ours": _ours(bench, number), "pgledger": {}}
    bench.say(f"{found['ours']['per_s']:,.0f} settlements/s")
    if bench.pgledger is None:
        bench.say("pgledger is left out: give its pgledger.sql with --pgledger")
    else:
        found["pgledger"] = _pgledger(bench, number, bench.pgledger)
    return found


def summarise(trials: Sequence[Trial]) -> Figures:
    """Medians, and the best of pgledger; without pgledger only ours."""
    theirs = by_name(trials, "pgledger")
    ways = {name: median(row["per_s"] for row in rows) for name, rows in theirs.items()}
    return {
        "settlements_per_s": median(trial["ours"]["per_s"] for trial in trials),
        "trials": [trial["ours"]["per_s"] for trial in trials],
        "postgres_us": median(trial["ours"]["postgres_us"] for trial in trials),
        "pgledger": ways,
        "transfers_per_s": max(ways.values(), default=None),
    }


def grids(figures: Figures) -> list[Grid]:
    """Ours above theirs."""
    ours = figures["settlements_per_s"]
    rows = [
        ("Clearlane, settlements", f"{ours:,.0f}", "1.00"),
        *(
            (f"pgledger, transfers, {name}", f"{rate:,.0f}", f"{ours / rate:.2f}")
            for name, rate in figures["pgledger"].items()
        ),
    ]
    if not figures["pgledger"]:
        rows.append(("pgledger", "left out: no --pgledger FILE", ""))
    head = ("", "per second", "Clearlane ×")
    return [Grid(title=f"Settling by {CHUNK}, without Celery or Valkey", head=head, rows=rows)]


SECTION = Section(
    name="settling",
    about="settlements by chunks of 64, beside pgledger's arrays of 64 (--pgledger FILE)",
    measure=measure,
    summarise=summarise,
    grids=grids,
    notes=(
        "Settling: `ledger.settle` from one process on one connection: two or three postings, the "
        "attempt, the result and the task's end for each. pgledger: one transfer for each, by "
        "`pgledger_create_transfers`, without the burn and without a task: less work. Without "
        "`--pgledger FILE` it is left out.",
    ),
)
