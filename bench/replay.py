"""Section `replay`: how quickly a replica checks a log, without the network."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from uuid import UUID

from bench.section import Bench, Figures, Grid, Section, Trial
from ledger.proof import entries
from ledger.proof.merkle import leaf_hash
from ledger.proof.notes import COSIGNER, LOG, Signer
from ledger.proof.tiles import WIDTH, encode_bundle
from workers.replica import store
from workers.replica.evidence import Evidence
from workers.replica.follow import BATCH_PAGES
from workers.replica.replica import Page, Replica
from workers.replica.tree import fold

ACCOUNTS = 1_000  # of each kind
AT = "2026-11-21T03:04:05.678Z"
COST_UB = 111_111_111
LOG_SIGNER = Signer(name="bench/1", kind=LOG, seed=bytes([1] * 32))
SIGNER = Signer(name="replica.bench", kind=COSIGNER, seed=bytes([2] * 32))


def leaves(settled: int) -> list[bytes]:
    """A log that settles so many tasks, between random accounts, with random ids."""
    chance = random.Random(7)
    rules = {
        **dict.fromkeys(("theta_plus_ub", "theta_minus_ub", "grace_s", "settled_min"), "0"),
        **dict.fromkeys(("rho_plus_ppm", "rho_minus_ppm", "top_up_ub", "top_up_cap_ub"), "0"),
        "tau_ppm": "10000",
    }
    found = [entries.params(epoch=1, at=AT, values=rules)]
    system = {"system:issuance": None, "system:burn": 0, "system:commons": 0}
    names = [f"{kind}:{number}" for kind in ("client", "agent") for number in range(ACCOUNTS)]
    for account, quota_ub in {**system, **dict.fromkeys(names, 10**18)}.items():
        found.append(entries.open_account(epoch=1, at=AT, account=account, quota_ub=quota_ub))
    burn_ub = COST_UB // 100
    for _ in range(settled):
        client = f"client:{chance.randrange(ACCOUNTS)}"
        agent = f"agent:{chance.randrange(ACCOUNTS)}"
        found.append(
            entries.settle(
                epoch=1,
                at=AT,
                task=str(UUID(int=chance.getrandbits(128))),
                attempt=1,
                client=client,
                agent=agent,
                size=100,
                output_sha256=chance.randbytes(32).hex(),
                postings=[
                    (client, -COST_UB),
                    (agent, COST_UB - burn_ub),
                    ("system:burn", burn_ub),
                ],
            )
        )
    return found


def pages(found: Sequence[bytes]) -> list[Page]:
    """As they come over the network, held against the checkpoint's hashes."""
    made = []
    for number, first in enumerate(range(0, len(found), WIDTH)):
        some = found[first : first + WIDTH]
        hashes = [leaf_hash(entry) for entry in some]
        full = len(some) == WIDTH
        made.append(
            Page(
                number=number,
                data=encode_bundle(some),
                width=len(some),
                root=fold(hashes) if full else None,
                hashes=None if full else hashes,
            )
        )
    return made


def measure(bench: Bench, _number: int) -> Trial:
    """Parse, hash, check and save a log of settled tasks."""
    found = leaves(bench.size(400_000, 5_000))
    made = pages(found)
    with TemporaryDirectory(dir=bench.place) as place:
        with store.opened(Path(place), LOG_SIGNER.name) as opened:
            replica = Replica(
                opened,
                Evidence(Path(place)),
                log_key=LOG_SIGNER.key,
                signer=SIGNER,
                clock_s=time.time,
            )
            started, cpu = time.perf_counter(), time.process_time()
            for at in range(0, len(made), BATCH_PAGES):
                replica.take(made[at : at + BATCH_PAGES])
            replica.save()
            took_s, cpu_s = time.perf_counter() - started, time.process_time() - cpu
        held = sum(item.stat().st_size for item in Path(place).iterdir())
    bench.say(f"replay: {len(found) / took_s:,.0f} leaves/s")
    return {
        "per_s": len(found) / took_s,
        "cpu_us": cpu_s / len(found) * 1e6,
        "bytes": held / len(found),
        "entry_bytes": sum(map(len, found)) / len(found),
    }


def summarise(trials: Sequence[Trial]) -> Figures:
    """Medians."""
    return {name: median(trial[name] for trial in trials) for name in trials[0]}


def grids(figures: Figures) -> list[Grid]:
    """One row."""
    head = ("leaves/s", "CPU µs/leaf", "bytes kept/leaf", "bytes/entry")
    row = tuple(f"{figures[name]:,.{digits}f}" for name, digits in
                (("per_s", 0), ("cpu_us", 1), ("bytes", 0), ("entry_bytes", 0)))  # fmt: skip
    return [Grid(title="A replica that replays a log", head=head, rows=[row])]


SECTION = Section(
    name="replay",
    about="leaves/s that a replica parses, hashes, checks and saves, without the network",
    measure=measure,
    summarise=summarise,
    grids=grids,
    notes=(
        "Replay: settlements between 2,000 accounts, ids and hashes random; pages are in memory, "
        "SQLite syncs every 131,072 leaves. One thread.",
    ),
)
