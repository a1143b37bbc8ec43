"""Section `epochs`: how long clearing takes by the number of accounts, and who waits for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from statistics import median

import psycopg
from sqlalchemy import Engine

from bench.section import Bench, Figures, Grid, Section, Trial
from bench.settling import claimed, settled_s
from bench.stand import database, echo_agents
from ledger import check, epochs
from ledger.money import UB

SIZES = (1_000, 10_000, 100_000, 1_000_000)
SHARES = (100, 10)  # percent of the accounts that owe demurrage
CLOSES = 3
RICH_UB, POOR_UB = 600 * UB, 100 * UB  # above the threshold and below
POLL_S = 0.0005
OLDER = (
    """
    INSERT INTO account (id, quota_ub, balance_ub, opened_at)
    SELECT 'client:old' || n, 0,
           CASE WHEN mod(n, 100) < %(share)s::int THEN %(rich)s::bigint ELSE %(poor)s::bigint END,
           now()
    FROM generate_series(1, %(count)s::bigint) n
    """,
    """
    UPDATE account SET balance_ub = -(SELECT sum(balance_ub) FROM account)
    WHERE id = 'system:issuance'
    """,
    "INSERT INTO ledger_transaction (id, kind, at) VALUES (0, 'mint', now())",
    "INSERT INTO posting SELECT 0, id, balance_ub FROM account WHERE balance_ub <> 0",
)
LOCKED = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted AND database = " \
    "(SELECT oid FROM pg_database WHERE datname = current_database())"  # fmt: skip


def _older(count: int, share: int) -> Callable[[str], None]:
    """Fills a ledger with accounts that are older than its log: by the owner, past the triggers,
    sound but for the time that it takes."""
    values = {"count": count, "share": share, "rich": RICH_UB, "poor": POOR_UB}

    def fill(url: str) -> None:
        with psycopg.connect(url) as connection:
            connection.execute("SET session_replication_role = replica")
            for statement in OLDER:
                connection.execute(statement.encode(), values)
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("VACUUM ANALYZE")

    return fill


def _close(url: str, engine: Engine) -> tuple[float, float]:
    """Seconds that a close took, and a chunk of settlements that came while it held its lock."""
    chunks = claimed(engine, 1)

    def closed_s() -> float:
        started = time.perf_counter()
        epochs.close(engine, epochs.opened(engine), datetime.now(UTC))
        return time.perf_counter() - started

    with ThreadPoolExecutor(1) as beside, psycopg.connect(url, autocommit=True) as watch:
        closing = beside.submit(closed_s)
        while watch.execute(LOCKED).fetchone() == (0,) and not closing.done():
            time.sleep(POLL_S)
        waited_s = settled_s(engine, chunks)
        return closing.result(), waited_s


def measure(bench: Bench, number: int) -> Trial:
    """Some closes of each ledger."""
    found: Trial = {}
    for count in SIZES[: bench.size(len(SIZES), 2)]:
        for share in SHARES:
            name, fill = f"epochs_{number}_{count}_{share}", _older(count, share)
            with database(bench, name, echo_agents(), fill) as (url, engine):
                rounds = [_close(url, engine) for _ in range(CLOSES)]
                if count == SIZES[0] and (wrong := check.violations(engine)):
                    raise RuntimeError(f"the ledger is broken: {wrong[0]}")
            found[f"{count} {share}"] = {
                "accounts": count,
                "share": share,
                "close_s": median(row[0] for row in rounds),
                "settle_s": max(row[1] for row in rounds),
            }
            bench.say(f"{count:,} accounts, {share} % charged: {rounds[0][0]:.2f} s")
    return found


def summarise(trials: Sequence[Trial]) -> Figures:
    """The one trial, as it was."""
    return trials[0]


def grids(figures: Figures) -> list[Grid]:
    """One row per size and share."""
    rows = [
        (
            f"{row['accounts']:,}",
            f"{row['share']} %",
            f"{row['close_s']:.2f}",
            f"{row['close_s'] / row['accounts'] * 1e6:,.1f}",
            f"{row['settle_s']:.2f}",
        )
        for row in figures.values()
    ]
    head = ("accounts", "charged", "close s", "µs an account", "a settlement beside it s")
    return [Grid(title="Closing an epoch", head=head, rows=rows)]


SECTION = Section(
    name="epochs",
    about="seconds to close an epoch over 10³ to 10⁶ accounts, and what a settlement waits",
    measure=measure,
    summarise=summarise,
    grids=grids,
    notes=(
        f"Epochs: the median of {CLOSES} closes. Charged accounts owe demurrage; each has a "
        "posting and a place in a leaf. The settlements, 64 in a chunk, come when the close holds "
        "its lock: the longest of the waits, with their own time.",
    ),
    trials=1,
)
