"""Section `log`: what the log costs a settlement, what proofs and receipts cost; does it grow?"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from statistics import mean, median
from typing import Any
from unittest import mock

from sqlalchemy import Engine

import ledger.db
from bench.processes import meter
from bench.section import Bench, Figures, Grid, Section, Trial
from bench.settling import CHUNK, WARM_CHUNKS, claimed, settled_s
from bench.stand import database, echo_agents
from ledger import checkpoints, leaves
from ledger.db import transaction
from ledger.log import Head, Page, open_page
from ledger.model import Settlement
from ledger.proof import entries, receipts
from ledger.proof.merkle import EMPTY_EDGE, inclusion_proof, leaf_hash, verify_inclusion
from ledger.proof.notes import COSIGNER, LOG, Signer
from ledger.proof.policy import Policy

CHUNKS = (1, 16, 64, 256)
PAIRS = 50  # short ones, in turns: what disturbs the one disturbs the other
SIZES = (10_000, 100_000, 1_000_000)
PAGE = 10_000  # leaves written at once to make a log long
PROOFS = 2_000  # and as many receipts
SIGNER = Signer(name="log.example/bench", kind=LOG, seed=bytes([1] * 32))
WITNESS = Signer(name="witness.example", kind=COSIGNER, seed=bytes([2] * 32))
POLICY = Policy.parse(f"witness w {WITNESS.key.encode()}\nquorum w\n")
SETTLED = "SELECT leaf FROM ledger_transaction WHERE kind = 'settle' ORDER BY leaf"
NEXT = """
SELECT 1 AS size, id AS epoch, 10000 AS tau_ppm, ''::bytea AS edge,
       (SELECT coalesce(max(id), -1) + 1 FROM ledger_transaction) AS transaction
FROM epoch WHERE closed_at IS NULL
"""


class _Silent(Page):
    """A page that nobody writes."""

    def add(self, *_leaves: bytes) -> int:
        return 0

    def write(self, _connection: Any) -> Any:
        return None


class _Unhashed:
    """What is not hashed: a mock would cost more than the hash."""

    @staticmethod
    def hexdigest() -> str:
        return ""


@contextmanager
def without_log() -> Iterator[None]:
    """Settle as if there were no log: no head is read, no leaf made, hashed or written."""
    real = ledger.db.sql

    def page(_: Any, row: Any, now: datetime) -> Page:
        head = Head(size=1, epoch=row.epoch, edge=EMPTY_EDGE, tail=(), transaction=row.transaction)
        return _Silent(head, now)

    def statement(name: str) -> str:
        return NEXT if name == "log_head" else real(name)

    def nothing(*_: Any) -> bytes:
        return b""

    def unhashed(_: bytes) -> _Unhashed:
        return _Unhashed()

    with (
        mock.patch("ledger.db.sql", statement),
        mock.patch("ledger.settle.page_of", page),
        mock.patch("ledger.settle._leaf", nothing),
        mock.patch("ledger.settle.sha256", unhashed),
    ):
        yield


def _timed(engine: Engine, chunks: Sequence[Sequence[Settlement]]) -> tuple[float, float]:
    """Wall and CPU seconds to settle them."""
    used, own_s = meter({}), time.process_time()
    wall_s = settled_s(engine, chunks)
    return wall_s, used()["postgres"] + time.process_time() - own_s


def _by_chunk(engine: Engine, chunk: int, tasks: int) -> dict[str, float]:
    """Settlements per second and µs of CPU each, with the log and without, in turns.

    kept: what the log leaves of the settlements, the median over the pairs.
    """
    wall_s: dict[bool, list[float]] = {True: [], False: []}
    cpu_s: dict[bool, list[float]] = {True: [], False: []}
    for logged in (True, False, False, True) * (PAIRS // 2):
        flat = [item for part in claimed(engine, -(-tasks // CHUNK)) for item in part]
        chunks = [flat[start : start + chunk] for start in range(0, len(flat), chunk)]
        with nullcontext() if logged else without_log():
            spent = _timed(engine, chunks)
        wall_s[logged].append(spent[0] / len(flat))
        cpu_s[logged].append(spent[1] / len(flat))
    pairs = zip(wall_s[False], wall_s[True], strict=True)
    return {
        "per_s": 1 / median(wall_s[True]),
        "bare_per_s": 1 / median(wall_s[False]),
        "kept": median(bare / logged for bare, logged in pairs),
        "cpu_us": mean(cpu_s[True]) * 1e6,
        "bare_cpu_us": mean(cpu_s[False]) * 1e6,
    }


def _lengthen(engine: Engine, size: int) -> None:
    """Leaves that move nothing, until the log has `size`."""
    now = datetime.now(UTC)
    have, _ = leaves.size(engine)
    while have < size:
        with transaction(engine) as connection:
            page = open_page(connection, now)
            count = min(PAGE, size - have)
            page.add(*(_leaf(page, number) for number in range(have, have + count)))
            have = page.write(connection).size


def _leaf(page: Page, number: int) -> bytes:
    return entries.abort(
        epoch=page.epoch,
        at=page.at,
        task=f"01900000-0000-7000-8000-{number:012x}",
        attempt=1,
        outcome="lost",
    )


def _proofs(engine: Engine, count: int) -> dict[str, float]:
    """Proofs made from PostgreSQL one by one, and checked, per second."""
    size, root = leaves.size(engine)
    wanted = random.Random(1).sample(range(size), min(count, size))
    started = time.perf_counter()
    made = [inclusion_proof(index, size, leaves.nodes(engine, size)) for index in wanted]
    made_s = time.perf_counter() - started
    hashes = [leaf_hash(leaves.entry(engine, index)) for index in wanted]
    started = time.perf_counter()
    for index, leaf, proof in zip(wanted, hashes, made, strict=True):
        verify_inclusion(leaf, index, size, proof, root)
    return {
        "made_per_s": len(wanted) / made_s,
        "checked_per_s": len(wanted) / (time.perf_counter() - started),
    }


def _sign(engine: Engine) -> None:
    """A checkpoint of the log as it is; one witness is the quorum."""
    now = datetime.now(UTC)
    checkpoints.sign(engine, lambda: SIGNER, now)
    stored = checkpoints.newest(engine)
    line = WITNESS.sign(stored.note.text, time_s=int(now.timestamp()))
    checkpoints.cosign(engine, stored.size, WITNESS.key, line, now)
    checkpoints.settle_quorum(engine, checkpoints.newest(engine), POLICY, now)


def _receipts(engine: Engine, count: int) -> dict[str, float]:
    """Settlements' receipts made from PostgreSQL one by one, and checked, per second."""
    _sign(engine)
    with engine.connect() as connection:
        settled = connection.exec_driver_sql(SETTLED).scalars().all()
    wanted = random.Random(2).sample(settled, min(count, len(settled)))
    started = time.perf_counter()
    made = [checkpoints.receipt(engine, index).encode().encode() for index in wanted]
    made_s = time.perf_counter() - started
    proven = [leaves.entry(engine, index) for index in wanted]
    started = time.perf_counter()
    for text, entry in zip(made, proven, strict=True):
        receipts.verify(text, entry, SIGNER.key, POLICY)
    return {
        "receipts_made_per_s": len(wanted) / made_s,
        "receipts_checked_per_s": len(wanted) / (time.perf_counter() - started),
    }


def _by_size(bench: Bench, engine: Engine, size: int) -> dict[str, float]:
    """Settlements up to this length of the log; proofs and receipts at it."""
    count, proofs = bench.size(6_400, 256), bench.size(PROOFS, 100)
    _lengthen(engine, size - count)
    wall_s, cpu_s = _timed(engine, claimed(engine, count // CHUNK))
    if leaves.size(engine)[0] != size:
        raise RuntimeError(f"the log has not {size:,} leaves")
    return {
        "per_s": count / wall_s,
        "cpu_us": cpu_s / count * 1e6,
        **_proofs(engine, proofs),
        **_receipts(engine, proofs),
    }


def measure(bench: Bench, number: int) -> Trial:
    """By chunk, then by the length of another log: the first one is long by then."""
    tasks = bench.size(1_024, 256)
    found: Trial = {"chunks": {}, "sizes": {}}
    with database(bench, f"log_{number}", echo_agents()) as (_, engine):
        settled_s(engine, claimed(engine, WARM_CHUNKS))
        for chunk in CHUNKS:
            part = tasks if chunk > 1 else tasks // 8
            row = found["chunks"][str(chunk)] = _by_chunk(engine, chunk, part)
            bench.say(f"chunk {chunk}: {row['per_s']:,.0f}/s, the log takes {1 - row['kept']:.1%}")
    with database(bench, f"log_sizes_{number}", echo_agents()) as (_, engine):
        settled_s(engine, claimed(engine, WARM_CHUNKS))
        for size in SIZES[: bench.size(len(SIZES), 1)]:
            row = found["sizes"][str(size)] = _by_size(bench, engine, size)
            bench.say(
                f"{size:,} leaves: {row['per_s']:,.0f} settlements/s, "
                f"{row['receipts_made_per_s']:,.0f} receipts/s"
            )
    return found


def summarise(trials: Sequence[Trial]) -> Figures:
    """Medians over the trials."""
    return {
        table: {
            name: {
                key: median(trial[table][name][key] for trial in trials) for key in row
            }
            for name, row in trials[0][table].items()
        }
        for table in ("chunks", "sizes")
    }  # fmt: skip


def grids(figures: Figures) -> list[Grid]:
    """Chunks, then lengths."""
    chunks = [
        (
            name,
            f"{row['per_s']:,.0f}",
            f"{row['bare_per_s']:,.0f}",
            f"{1 - row['kept']:.1%}",
            f"{row['cpu_us']:.0f}",
            f"{row['bare_cpu_us']:.0f}",
        )
        for name, row in figures["chunks"].items()
    ]
    sizes = [
        (
            f"{int(name):,}",
            f"{row['per_s']:,.0f}",
            f"{row['cpu_us']:.0f}",
            f"{row['made_per_s']:,.0f}",
            f"{row['checked_per_s']:,.0f}",
            f"{row['receipts_made_per_s']:,.0f}",
            f"{row['receipts_checked_per_s']:,.0f}",
        )
        for name, row in figures["sizes"].items()
    ]
    return [
        Grid(
            title="Settling with the log and without",
            head=("chunk", "with/s", "without/s", "the log takes", "CPU µs with", "without"),
            rows=chunks,
        ),
        Grid(
            title="Settlements by chunks of 64, proofs and receipts, by the length of the log",
            head=(
                *("leaves", "settlements/s", "CPU µs"),
                *("proofs made/s", "proofs checked/s", "receipts made/s", "receipts checked/s"),
            ),
            rows=sizes,
        ),
    ]


SECTION = Section(
    name="log",
    about="what the log costs a settlement by chunk size; receipts; growth to 10⁶ leaves",
    measure=measure,
    summarise=summarise,
    grids=grids,
    notes=(
        "Log: `ledger.settle` on one connection, 1,024 tasks (128 one by one) in turns with the "
        "same code whose head, leaves, hashes and pages are left out; what the log takes is the "
        f"median over {PAIRS} pairs. CPU: PostgreSQL and the settling process. A proof is made "
        "from PostgreSQL alone, each with no tile kept from the one before, and checked in memory. "
        "A receipt besides has the checkpoint, with the signatures of the log and of one witness; "
        "it is checked from its text with the log's key and a policy that wants the witness, as "
        "`clearlane verify` does. Proofs are of any leaves, receipts of settlements.",
    ),
)
