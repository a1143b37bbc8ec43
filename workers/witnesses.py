"""How far the log is final, and which witnesses keep it from being so."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Engine

from ledger import checkpoints
from ledger.checkpoints import WitnessState
from ledger.gauges import LogState
from ledger.proof.policy import NONE, Policy, Witness


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """A witness. `behind`: leaves of the log that it has not signed; `why`: "" when it has signed
    the newest checkpoint. `accuses`: it answered that the log is not the one that it has signed.
    """

    witness: Witness
    state: WitnessState
    behind: int
    why: str
    accuses: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """The first `final` of `size` leaves are final. `needs`: what the quorum is made of; `lacks`:
    those of its witnesses that have not signed the newest checkpoint. `since`: when the first
    checkpoint that is not final was signed; None when none waits."""

    final: int
    size: int
    needs: str
    lacks: tuple[Standing, ...]
    since: datetime | None
    witnesses: tuple[Standing, ...]

    def text(self) -> str:
        """One line for people."""
        said = f"final: {self.final} of {self.size} leaves"
        if self.final == self.size:
            return said
        if self.since is None:
            return f"{said}; the rest waits for the next checkpoint"
        lacking = ", ".join(f"{found.witness.name} ({found.why})" for found in self.lacks)
        return f"{said}; {self.needs}, lacks {lacking}" if lacking else f"{said}; {self.needs}"


def judge(engine: Engine, policy: Policy, log: LogState) -> Verdict:
    """How it stands for a log in this state. Raises Unavailable."""
    states = checkpoints.witnesses(engine, [witness.key for witness in policy.witnesses])
    found = tuple(
        _standing(log, witness, state)
        for witness, state in zip(policy.witnesses, states, strict=True)
    )
    counted = set(_counted(policy))
    return Verdict(
        final=log.final or 0,
        size=log.size,
        needs=_needs(policy),
        lacks=tuple(item for item in found if item.why and item.witness.name in counted),
        since=log.waits_since,
        witnesses=found,
    )


def _standing(log: LogState, witness: Witness, state: WitnessState) -> Standing:
    signed, wanted = state.signed or 0, log.signed or 0
    why = "" if signed >= wanted else _why(witness, state)
    return Standing(
        witness=witness,
        state=state,
        behind=log.size - signed,
        why=why,
        accuses=bool(why) and state.accuses,
    )


def _why(witness: Witness, state: WitnessState) -> str:
    if state.fault:
        return state.fault
    if witness.url is None:
        return "the policy has no address to ask"
    return "not asked yet" if state.asked is None else f"it has signed {state.signed or 0} leaves"


def _needs(policy: Policy) -> str:
    for group in policy.groups:
        if group.name == policy.quorum:
            return f"the quorum {group.name} needs {group.needed} of {len(group.members)}"
    return "the quorum needs no witness" if policy.quorum == NONE else "the quorum is one witness"


def _counted(policy: Policy) -> Iterator[str]:
    """The names that the quorum hangs on."""
    members: dict[str, Collection[str]] = {group.name: group.members for group in policy.groups}
    wanted = [policy.quorum]
    for name in wanted:  # grows while it is read: groups name only what stands before them
        yield name
        wanted += members.get(name, ())
