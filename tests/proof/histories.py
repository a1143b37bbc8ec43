"""A ledger in a few lines that writes its own log: the reference that replays are held against.

It knows the rules from the paper, by fractions, and shares no formula with the product.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from math import floor
from typing import Any
from uuid import UUID

from ledger.clearing import Clearing
from ledger.proof import entries
from ledger.proof.entries import POSTINGS_MAX, stamp
from ledger.proof.notes import LOG, Signer

START = datetime(2026, 11, 21, 3, 4, 5, 678_000, tzinfo=UTC)
SYSTEM = {"system:issuance": None, "system:burn": 0, "system:commons": 0}
PPM = 1_000_000
KEYS = [  # of a log that changes its key
    Signer(name="log.test/1", kind=LOG, seed=bytes([100 + n] * 32)).key.encode() for n in range(4)
]


class Ledger:
    """Balances, quotas, ages and counts, and the leaves that tell of them."""

    def __init__(self, rule: Clearing, tau_ppm: int = 10_000) -> None:
        self.leaves: list[bytes] = []
        self.balances: dict[str, int] = {}
        self.quotas: dict[str, int | None] = {}
        self.opened: dict[str, datetime] = {}
        self.counts: dict[str, int] = {}
        self.now, self.epoch, self.tasks = START, 1, 0
        self.totals = {"burned": 0, "minted": 0, "settled": 0}
        self.params(rule, tau_ppm)

    @property
    def head(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "at": stamp(self.now)}

    def wait(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def spendable(self, account: str) -> int:
        return self.balances[account] + (self.quotas[account] or 0)

    def add(self, leaf: bytes, *postings: tuple[str, int]) -> None:
        self.leaves.append(leaf)
        for account, amount in postings:
            self.balances[account] += amount

    def params(self, rule: Clearing, tau_ppm: int) -> None:
        self.rule, self.tau_ppm = rule, tau_ppm
        values = {name: str(value) for name, value in asdict(rule).items()}
        values |= {"tau_ppm": str(tau_ppm), "epoch_s": "3600"}
        self.add(entries.params(**self.head, values=values))

    def open(self, account: str, quota: int | None) -> None:
        self._open(account, quota, 0, 0)
        self.add(entries.open_account(**self.head, account=account, quota_ub=quota))

    def open_older(self, account: str, quota: int | None, balance: int, settled: int) -> None:
        self._open(account, quota, balance, settled)
        older: dict[str, Any] = {"balance_ub": balance, "settled": settled}
        self.add(entries.open_older(**self.head, account=account, quota_ub=quota, **older))

    def _open(self, account: str, quota: int | None, balance: int, settled: int) -> None:
        self.quotas[account], self.opened[account] = quota, self.now
        self.balances[account], self.counts[account] = balance, settled

    def open_system(self) -> None:
        for account, quota in SYSTEM.items():
            self.open(account, quota)

    def quota(self, account: str, quota: int) -> None:
        self.quotas[account] = quota
        self.add(entries.quota(**self.head, account=account, quota_ub=quota))

    def mint(self, account: str, amount: int) -> None:
        postings = [(account, amount), ("system:issuance", -amount)]
        self.add(entries.mint(**self.head, account=account, postings=postings), *postings)
        self.totals["minted"] += amount

    def settle(self, client: str, agent: str, cost: int, **values: Any) -> None:
        burn = floor(Fraction(self.tau_ppm, PPM) * cost)
        moved = [(client, -cost), (agent, cost - burn), ("system:burn", burn)]
        postings = [pair for pair in moved if pair[1]]
        self.tasks += 1
        leaf: dict[str, Any] = {
            "task": str(UUID(int=self.tasks)),
            "attempt": 1,
            "client": client,
            "agent": agent,
            "size": 100,
            "output_sha256": "ab" * 32,
            "postings": postings,
        }
        self.add(entries.settle(**self.head, **(leaf | values)), *postings)
        for account, _ in postings:
            self.counts[account] = self.counts.get(account, 0) + (account in (client, agent))
        self.totals["burned"] += burn
        self.totals["settled"] += 1

    def abort(self, agent: str | None) -> None:
        what: dict[str, Any] = {"task": str(UUID(int=2**64)), "attempt": 1, "outcome": "timeout"}
        if agent is None:
            self.add(entries.abort(**self.head, **what))
        else:
            blame: dict[str, Any] = {"agent": agent, "f": (0.0, 5.0), "s": (1.0, 0.7)}
            self.add(entries.abort_blaming(**self.head, **what, **blame))

    def penalty(self, account: str, amount: int) -> None:
        postings = [(account, -amount), ("system:commons", amount)]
        self.add(entries.penalty(**self.head, reason="recheck", postings=postings), *postings)

    def freeze(self, account: str, *, frozen: bool) -> None:
        self.add(entries.freeze(**self.head, account=account, frozen=frozen, reason="ring"))

    def key(self, old: str, new: str) -> None:
        self.add(entries.key(**self.head, old=old, new=new))

    def dues(self) -> dict[str, int]:
        """What clearing takes, by the paper's formulas."""
        rule, found = self.rule, {}
        for account in sorted(set(self.balances) - set(SYSTEM)):
            balance = self.balances[account]
            due = floor(Fraction(rule.rho_plus_ppm, PPM) * max(0, balance - rule.theta_plus_ub))
            age = self.now - self.opened[account]
            if self.counts[account] >= rule.settled_min and age.total_seconds() >= rule.grace_s:
                rate = Fraction(rule.rho_minus_ppm, PPM)
                charge = floor(rate * max(0, -balance - rule.theta_minus_ub))
                due += min(charge, self.spendable(account))
            if due:
                found[account] = due
        return found

    def close(self, blocked: list[str]) -> None:
        dues = self.dues()
        demurrage = sum(due for account, due in dues.items() if self.balances[account] > 0)
        names = list(dues)
        for part, start in enumerate(range(0, len(names), POSTINGS_MAX - 1)):
            postings = [(name, -dues[name]) for name in names[start : start + POSTINGS_MAX - 1]]
            postings.append(("system:commons", -sum(amount for _, amount in postings)))
            self.add(entries.clear(**self.head, part=part, postings=postings), *postings)
        given = self._top_up(sorted(blocked))
        self.add(
            entries.epoch_close(
                **self.head,
                accounts=len(self.balances),
                demurrage_ub=demurrage,
                charge_ub=sum(dues.values()) - demurrage,
                top_up_ub=given,
                burned_ub=self.totals["burned"],
                minted_ub=self.totals["minted"],
                settled=self.totals["settled"],
                balances_sha256=self.sha256(),
            )
        )
        self.epoch += 1
        self.totals = dict.fromkeys(self.totals, 0)

    def _top_up(self, blocked: list[str]) -> int:
        if not blocked:
            return 0
        share = min(self.rule.top_up_ub, self.rule.top_up_cap_ub // len(blocked))
        step = POSTINGS_MAX - 2
        for start in range(0, len(blocked) if share else 0, step):
            some = blocked[start : start + step]
            paid = min(self.balances["system:commons"], share * len(some))
            issued = share * len(some) - paid
            postings = [(account, share) for account in some]
            payers = [("system:commons", -paid), ("system:issuance", -issued)]
            postings += [pair for pair in payers if pair[1]]
            self.add(entries.top_up(**self.head, postings=postings), *postings)
            self.totals["minted"] += issued
        return share * len(blocked)

    def sha256(self) -> str:
        lines = [
            f"{name} {balance}\n" for name, balance in sorted(self.balances.items()) if balance
        ]
        return hashlib.sha256("".join(lines).encode()).hexdigest()


def everything() -> Ledger:
    """A history with every type of leaf; both charges, and a top-up that issuance must help pay."""
    rule = Clearing(
        theta_plus_ub=500,
        theta_minus_ub=200,
        rho_plus_ppm=20_000,
        rho_minus_ppm=20_000,
        grace_s=3600,
        settled_min=1,
        top_up_ub=100,
        top_up_cap_ub=250,
    )
    ledger = Ledger(rule)
    ledger.wait(-100_000)
    ledger.open_older("system:issuance", None, -2000, 0)
    ledger.open_older("system:burn", 0, 10, 0)
    ledger.open_older("system:commons", 0, 0, 0)
    ledger.open_older("agent:A", 0, 1990, 3)
    ledger.open_older("agent:B", 1000, 0, 2)
    ledger.wait(100_000)
    for client in "PQRS":
        ledger.open(f"client:{client}", 300 if client == "S" else 0)
    ledger.open("agent:N", 300)
    ledger.mint("client:R", 1500)
    ledger.quota("client:R", 100)
    ledger.settle("client:R", "agent:A", 1111)
    ledger.settle("client:R", "agent:A", 0)
    ledger.settle("agent:B", "agent:A", 700)
    ledger.settle("client:S", "agent:A", 290)
    ledger.settle("agent:N", "agent:B", 290)
    ledger.abort("agent:B")
    ledger.abort(None)
    ledger.penalty("agent:A", 7)
    ledger.freeze("agent:A", frozen=True)
    ledger.freeze("agent:A", frozen=False)
    ledger.key(KEYS[0], KEYS[1])
    ledger.close(["client:P", "client:Q", "client:S"])
    ledger.wait(3600)
    ledger.params(Clearing(**(asdict(rule) | {"rho_minus_ppm": 1_000_000})), 20_000)
    ledger.settle("client:R", "agent:A", 333)
    ledger.close(["client:P"])
    ledger.key(KEYS[1], KEYS[2])
    ledger.settle("client:R", "agent:B", 50)
    ledger.close([])
    return ledger
