"""Section `entries`: what a settlement costs on a small ledger and on a very large one."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

import psutil
import psycopg

from bench.processes import meter
from bench.section import Bench, Figures, Grid, Section, Trial
from bench.settling import CHUNK, claimed, settled_s
from bench.stand import AGENTS, CLIENT, FAMILY, database, echo_agents
from ledger import check

SMALL = 10_000
PER_TASK = 3  # postings: client, agent, burn
FILL_MAX = 500_000  # settled tasks in one transaction
REPEATS = 5
PARTS = (
    """
    INSERT INTO task (id, client, family, type, size, state, attempt, wait, ready_at,
                      submitted_at, ended_at, reason, content_sha256)
    SELECT {id}, %(client)s, %(family)s, 'work', 100, 'COMMITTED', 1, NULL, now(),
           now(), now(), 'passed none', '\\x00'
    FROM generate_series(%(first)s::bigint, %(last)s::bigint) n
    """,
    """
    INSERT INTO task_body (task, payload)
    SELECT {id}, '{{"n": 1}}' FROM generate_series(%(first)s::bigint, %(last)s::bigint) n
    """,
    """
    INSERT INTO task_result (task, agent, attempt, cost_ub, output)
    SELECT {id}, {agent}, 1, 100, '{{"n": 1}}'
    FROM generate_series(%(first)s::bigint, %(last)s::bigint) n
    """,
    """
    INSERT INTO attempt (task, attempt, state, outcome, agent, cost_ub, latency_s, reason, ended_at)
    SELECT {id}, 1, 'COMMITTED', 'ok', {agent}, 100, 0.1, 'passed none', now()
    FROM generate_series(%(first)s::bigint, %(last)s::bigint) n
    """,
    """
    INSERT INTO ledger_transaction (id, kind, task, at)
    SELECT n, 'settle', {id}, now() FROM generate_series(%(first)s::bigint, %(last)s::bigint) n
    """,
    """
    INSERT INTO posting (transaction, account, amount_ub)
    SELECT n, p.account, p.amount_ub
    FROM generate_series(%(first)s::bigint, %(last)s::bigint) n, LATERAL (VALUES
        ('client:' || %(client)s::text, -100), ('agent:' || {agent}, 99), ('system:burn', 1)
    ) AS p (account, amount_ub)
    """,
)
NAMES = {
    "id": "('01900000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid",
    "agent": f"('A' || mod(n, {AGENTS}))",
}
BALANCES = """
UPDATE account a SET balance_ub = p.total
FROM (SELECT account, sum(amount_ub) AS total FROM posting GROUP BY account) p
WHERE p.account = a.id
"""


def fill(bench: Bench, url: str, entries: int) -> None:
    """Bring the ledger to `entries` postings of settled tasks, sound but for the time it takes.

    By the owner, past the triggers: they are for one settlement at a time.
    """
    with psycopg.connect(url) as connection:
        connection.execute("SET session_replication_role = replica")
        row = connection.execute(
            "SELECT max(id), (SELECT count(*) FROM posting) FROM ledger_transaction"
        ).fetchone()
        assert row is not None
        first, tasks = row[0] + 1, max(0, entries - row[1]) // PER_TASK
        for start in range(first, first + tasks, FILL_MAX):
            last = min(first + tasks, start + FILL_MAX) - 1
            values = {"client": CLIENT, "family": FAMILY, "first": start, "last": last}
            for part in PARTS:
                connection.execute(part.format(**NAMES).encode(), values)
            connection.commit()
            bench.say(f"filled to transaction {last:,}")
        connection.execute(BALANCES)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")
        connection.execute("CHECKPOINT")


def measure(bench: Bench, number: int) -> Trial:
    """The same settlements on the same database, filled a little and then a lot."""
    found: Trial = {"ledgers": {}}
    chunks = bench.size(100, 10)
    with database(bench, f"entries_{number}", echo_agents()) as (url, engine):
        for entries in (SMALL, bench.size(10_000_000, 100_000)):
            fill(bench, url, entries)
            settled_s(engine, claimed(engine, 10))
            rounds = []
            for _ in range(REPEATS):
                todo = claimed(engine, chunks)
                used, before = meter({}), _own_s()
                wall_s = settled_s(engine, todo)
                rounds.append(
                    {
                        "wall_us": wall_s / (chunks * CHUNK) * 1e6,
                        "postgres_us": used()["postgres"] / (chunks * CHUNK) * 1e6,
                        "own_us": (_own_s() - before) / (chunks * CHUNK) * 1e6,
                    }
                )
            found["ledgers"][str(entries)] = rounds
            cost = median(row["wall_us"] for row in rounds)
            bench.say(f"{entries:,} entries: {cost:,.1f} µs a settlement")
            if entries == SMALL and (wrong := check.violations(engine)):
                raise RuntimeError(f"the filled ledger is broken: {wrong[0]}")
    return found


def _own_s() -> float:
    times = psutil.Process().cpu_times()
    return float(times.user + times.system)


def summarise(trials: Sequence[Trial]) -> Figures:
    """Medians by the size of the ledger."""
    ledgers: dict[str, Any] = {}
    for entries in trials[0]["ledgers"]:
        rounds = [row for trial in trials for row in trial["ledgers"][entries]]
        ledgers[entries] = {name: median(row[name] for row in rounds) for name in rounds[0]}
    sizes = sorted(ledgers, key=int)
    return {
        "ledgers": ledgers,
        "growth": ledgers[sizes[-1]]["wall_us"] / ledgers[sizes[0]]["wall_us"],
    }


def grids(figures: Figures) -> list[Grid]:
    """One row per size."""
    rows = [
        (
            f"{int(entries):,}",
            f"{row['wall_us']:,.1f}",
            f"{row['postgres_us']:,.1f}",
            f"{row['own_us']:,.1f}",
        )
        for entries, row in figures["ledgers"].items()
    ]
    head = ("entries", "µs", "CPU µs, PostgreSQL", "CPU µs, client")
    return [Grid(title=f"One settlement, in chunks of {CHUNK}", head=head, rows=rows)]


SECTION = Section(
    name="entries",
    about="cost of a settlement on ledgers of 10,000 and of 10,000,000 entries",
    measure=measure,
    summarise=summarise,
    grids=grids,
    notes=(
        "Entries: postings, with the tasks, results, attempts and transactions that belong to "
        "them; filled by SQL, then vacuumed. The cost is time of one process on one connection.",
    ),
    trials=1,
    long=True,
)
