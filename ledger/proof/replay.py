"""The log as a state machine: every leaf is checked against what the leaves before it say.

Deterministic: no clock, no database, nothing but the leaves. Rows M07, M21, M22; paper §7, §8.3.

What holds after each leaf that `State.apply` accepts:

- The first leaf is `params`. An account is opened once, before it is used; those that are older
  than the log come at its beginning, with balances that sum to zero.
- Postings sum to zero, none is zero, no account is named twice; no balance is below minus its
  quota. Credit is created by `mint` and, where the commons do not suffice, by `top_up` alone.
- A task is settled once. Its payer pays, ⌊τ·cost⌋ burns, the agent gets the rest, in this order.
- At the end of an epoch come its `clear` leaves, which are exactly those that `ledger.clearing`
  makes of the accounts as they stand; then `top_up`, the same stated share for each client, by
  name; then `epoch_close`, whose totals and `balances_sha256` are the replay's own. They have one
  `at` and nothing comes between them. The next leaf has the next epoch.

What no replay can tell, so that a leaf may state it wrongly:

- Times. `at` counts only from `open` to the end of an epoch, for the grace. Several machines write
  it, each by its own clock, so it may go back from leaf to leaf; a checker that has a clock holds
  the checkpoints' time against it.
- What happened outside: of `settle` the task's id (but that it is new), the attempt, the size, the
  output's hash and, where it cost nothing, who asked and who did it; of `abort` everything but
  that its agent has an account; the ground of a `mint`, a `penalty` or a `freeze`; what quota an
  account gets; which clients were blocked at a `top_up`; how many tasks an older account had
  settled.
- Parameters that are neither τ nor clearing's: they are kept, not used.
- A new `key`'s owner: only that its leaf names the key before it, and one for the same log.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import astuple, fields
from typing import Any, Final, Protocol, Self

from ledger.clearing import COMMONS, Clearing
from ledger.errors import BadInput, ClearlaneError
from ledger.money import PPM
from ledger.postings import BURN, ISSUANCE
from ledger.proof.books import SYSTEM, Account, Books, Broken
from ledger.proof.closing import Close, Totals
from ledger.proof.entries import NewerLeaf, decode, millis
from ledger.proof.errors import ProofRefused
from ledger.proof.notes import KINDS, LOG, VerifierKey

RULES: Final = ("tau_ppm", *(item.name for item in fields(Clearing)))
DIGITS_MAX: Final = 19


class Violation(ClearlaneError):
    """A leaf that does not follow from those before it. Final: so is every log that holds it."""

    def __init__(self, index: int, reason: str) -> None:
        super().__init__(f"leaf {index}: {reason}")
        self.index = index
        self.reason = reason


class Newer(Violation):
    """A leaf that this version does not know: whether it follows cannot be told here."""


class Tasks(Protocol):
    """The tasks settled so far, wherever they are kept."""

    def add(self, task: str) -> bool:
        """Remember a task; False if it was there."""


class TaskSet:
    """Settled tasks in memory."""

    def __init__(self) -> None:
        self._tasks: set[str] = set()

    def add(self, task: str) -> bool:
        """Remember a task; False if it was there."""
        before = len(self._tasks)
        self._tasks.add(task)
        return len(self._tasks) > before


class State:
    """What the leaves so far add up to. After a Violation it is of no further use.

    `size` leaves were applied; `accounts` by name; `epoch` is that of the next leaf; `log_key` the
    verifier key that the last `key` leaf announced; `params` those in force.
    """

    def __init__(self, tasks: Tasks) -> None:
        self.size = 0
        self.epoch = 1
        self.params: dict[str, str] = {}
        self.log_key: str | None = None
        self.accounts = Books()
        self._tasks = tasks
        self._tau_ppm = 0
        self._rule = Clearing()
        self._genesis = True
        self._older_ub = 0  # the balances that the log began with, summed
        self._totals = Totals()
        self._close: Close | None = None
        self._steps: dict[str, Callable[[dict[str, Any]], None]] = {
            "settle": self._settle,
            "params": self._params,
            "open": self._open,
            "quota": self._quota,
            "mint": self._mint,
            "abort": self._abort,
            "penalty": self._penalty,
            "freeze": self._freeze,
            "key": self._key,
            "clear": self._closing,
            "top_up": self._closing,
            "epoch_close": self._closing,
        }

    def apply(self, index: int, data: bytes) -> None:
        """Take the next leaf. Raises Violation if it does not follow, Newer if nobody can tell."""
        if index != self.size:
            raise Violation(index, f"leaf {self.size} comes next")
        try:
            self._apply(decode(data))
        except NewerLeaf as error:
            raise Newer(index, error.reason) from error
        except BadInput as error:
            raise Violation(index, f"{error.field}: {error.reason}") from error
        except Broken as error:
            raise Violation(index, str(error)) from error
        self.size += 1

    def _apply(self, entry: dict[str, Any]) -> None:
        step = self._steps[entry["type"]]
        if entry["epoch"] != self.epoch:
            raise Broken(f"epoch {entry['epoch']} in epoch {self.epoch}")
        if self._close is not None and step != self._closing:
            raise Broken(f"{entry['type']} while epoch {self.epoch} is being closed")
        if self._genesis:
            self._begin(entry["type"])
        step(entry)

    def _begin(self, kind: str) -> None:
        """`params`, then accounts; another leaf ends the genesis."""
        if self.size == 0 and kind != "params":
            raise Broken(f"the first leaf is {kind}, not params")
        if self.size and kind != "open":
            self._require_zero()
            self._genesis = False

    def _require_zero(self) -> None:
        if self._older_ub:
            raise Broken(f"the balances of the beginning sum to {self._older_ub}, not to 0")

    def require_rest(self) -> None:
        """Raises Violation where no checkpoint may stand: within the genesis or a close."""
        try:
            self._require_zero()
        except Broken as error:
            raise Violation(self.size, str(error)) from error
        if self._close is not None:
            raise Violation(self.size, f"epoch {self.epoch} is half closed")

    def balances_sha256(self) -> str:
        """The hash of all balances as they stand."""
        return self.accounts.sha256(sorted(self.accounts))

    def dump(self) -> bytes:
        """Everything but the tasks, to go on from later; only where a checkpoint may stand.

        Whoever keeps it keeps the tasks of the same `size`: one added later would be refused.
        """
        self.require_rest()
        kept = {
            "size": self.size,
            "epoch": self.epoch,
            "params": self.params,
            "log_key": self.log_key,
            "genesis": self._genesis,
            "totals": astuple(self._totals),
            "accounts": {
                name: (found.balance_ub, found.quota_ub, found.opened_ms, found.settled)
                for name, found in self.accounts.items()
            },
        }
        return json.dumps(kept).encode()

    @classmethod
    def load(cls, data: bytes, tasks: Tasks) -> Self:
        """What `dump` kept. It is trusted: it comes from this process, not from the log."""
        kept = json.loads(data)
        state = cls(tasks)
        state.size, state.epoch, state.log_key = kept["size"], kept["epoch"], kept["log_key"]
        if kept["params"]:
            state._use(kept["params"])
        state._genesis = kept["genesis"]
        state._totals = Totals(*kept["totals"])
        state.accounts.update((name, Account(*found)) for name, found in kept["accounts"].items())
        return state

    def _params(self, entry: dict[str, Any]) -> None:
        self._use(entry["params"])

    def _use(self, values: Mapping[str, str]) -> None:
        for name in RULES:
            text = values.get(name, "")
            if not (text.isdigit() and len(text) <= DIGITS_MAX and str(int(text)) == text):
                raise BadInput(f"params.{name}", f"{text!r} is not a plain number", "state it")
        numbers = {name: int(values[name]) for name in RULES}
        if numbers["tau_ppm"] > PPM:
            raise BadInput("params.tau_ppm", f"more than {PPM}", "state it in ppm")
        self._tau_ppm = numbers.pop("tau_ppm")
        self._rule = Clearing(**numbers)
        self.params = dict(values)

    def _open(self, entry: dict[str, Any]) -> None:
        if "balance" in entry and not self._genesis:
            raise Broken(f"{entry['account']} is opened with a balance after the log has begun")
        balance_ub, settled = int(entry.get("balance", 0)), entry.get("settled", 0)
        quota_ub = None if entry["quota"] is None else int(entry["quota"])
        account = Account(balance_ub, quota_ub, millis(entry["at"]), settled)
        self.accounts.open(entry["account"], account)
        self._older_ub += balance_ub

    def _quota(self, entry: dict[str, Any]) -> None:
        self.accounts.set_quota(entry["account"], int(entry["quota"]))

    def _settle(self, entry: dict[str, Any]) -> None:
        client, agent, postings = entry["client"], entry["agent"], entry["postings"]
        if not self._tasks.add(entry["task"]):
            raise Broken(f"task {entry['task']} is settled twice")
        if client.startswith("system:") or not agent.startswith("agent:") or client == agent:
            raise Broken(f"{client} cannot pay {agent}")
        payer, payee = self.accounts.known(client), self.accounts.known(agent)
        if postings:
            burn_ub = self._pay(client, payer, agent, payee, postings)
            self.accounts.known(BURN).balance_ub += burn_ub
            self._totals.burned_ub += burn_ub
            payer.settled += 1
            payee.settled += postings[1][0] == agent  # not where all of it burned
        self._totals.settled += 1

    def _pay(
        self, client: str, payer: Account, agent: str, payee: Account, postings: list[list[str]]
    ) -> int:
        """What burns. The postings follow from the cost and τ, in every byte."""
        cost_ub = -int(postings[0][1])
        burn_ub = cost_ub * self._tau_ppm // PPM
        rest_ub = cost_ub - burn_ub
        wanted = [[client, postings[0][1]]]
        if rest_ub:
            wanted.append([agent, str(rest_ub)])
        if burn_ub:
            wanted.append([BURN, str(burn_ub)])
        if postings != wanted or cost_ub < 0:
            raise Broken(f"the postings of a settlement of {cost_ub} are {wanted}")
        payer.balance_ub -= cost_ub
        payee.balance_ub += rest_ub
        self.accounts.require_floor(client, payer)
        return burn_ub

    def _mint(self, entry: dict[str, Any]) -> None:
        account = entry["account"]
        moved = self.accounts.move(entry["postings"])
        minted_ub = moved.get(account, 0)
        if minted_ub <= 0 or moved != {account: minted_ub, ISSUANCE: -minted_ub}:
            raise Broken(f"a mint moves credit from {ISSUANCE} to {account} alone")
        self._totals.minted_ub += minted_ub

    def _abort(self, entry: dict[str, Any]) -> None:
        agent = entry.get("agent")
        if agent is None:
            return
        if not agent.startswith("agent:"):
            raise Broken(f"{agent} is no agent")
        self.accounts.known(agent)

    def _penalty(self, entry: dict[str, Any]) -> None:
        moved = self.accounts.move(entry["postings"])
        if moved.pop(COMMONS, 0) <= 0 or max(moved.values()) > 0 or not SYSTEM.isdisjoint(moved):
            raise Broken(f"a penalty moves credit from agents and clients to {COMMONS}")

    def _freeze(self, entry: dict[str, Any]) -> None:
        account = entry["account"]
        if account in SYSTEM:
            raise Broken(f"{account} is the system's: it cannot be frozen")
        self.accounts.known(account)

    def _key(self, entry: dict[str, Any]) -> None:
        if self.log_key not in (None, entry["old"]):
            raise Broken(f"the key before is {self.log_key}, not {entry['old']}")
        if entry["new"] == entry["old"]:
            raise Broken("the new key is the old one")
        old, new = _log_key(entry["old"]), _log_key(entry["new"])
        if new.name != old.name:
            raise Broken(f"{new} is the key of another log than {old}")
        self.log_key = entry["new"]

    def _closing(self, entry: dict[str, Any]) -> None:
        """A leaf of the close; the first one starts it, `epoch_close` ends it."""
        if self._close is None:
            self._close = Close(self.accounts, self._rule, self._totals, entry["at"])
        self._close.require_time(entry["at"])
        if entry["type"] == "clear":
            self._close.clear(entry)
        elif entry["type"] == "top_up":
            self._close.top_up(entry)
        else:
            self._close.end(entry)
            self.epoch += 1
            self._totals, self._close = Totals(), None


def _log_key(text: str) -> VerifierKey:
    try:
        key = VerifierKey.parse(text)
    except ProofRefused as error:
        raise Broken(str(error)) from error
    if key.kind != LOG:
        raise Broken(f"{key} is the key of a {KINDS[key.kind]}, not of a log")
    return key
