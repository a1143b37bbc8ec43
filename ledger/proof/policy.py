"""Whose signatures are enough (c2sp.org/tlog-policy): logs, witnesses, groups and the quorum."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Self

from ledger.proof.errors import ProofRefused
from ledger.proof.notes import COSIGNER, KINDS, LOG, SIGNATURES_MAX, VerifierKey
from ledger.proof.text import NUMBER

POLICY_BYTES_MAX: Final = 262_144
WITNESSES_MAX: Final = SIGNATURES_MAX - 2  # a log that changes its key signs a note twice
NONE: Final = "none"  # a quorum that needs no witness
FORBIDDEN: Final = re.compile(rb"[^\x09\x0a\x20-\x7e\x80-\xff]")
WORD: Final = re.compile(r"[^ \t]+")
WORDS: Final = {"log": (2, 3), "witness": (3, 4), "group": (4, None), "quorum": (2, 2)}
FORMS: Final = {
    "log": "log KEY [URL]",
    "witness": "witness NAME KEY [URL]",
    "group": "group NAME all|any|K MEMBER...",
    "quorum": "quorum NAME",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Log:
    """A log whose checkpoints are accepted; its key's name is its origin."""

    key: VerifierKey
    url: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Witness:
    """A witness; `name` has a meaning in the policy only."""

    name: str
    key: VerifierKey
    url: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Counts as a witness when `needed` of its members do."""

    name: str
    needed: int
    members: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """What must have signed a checkpoint. `quorum` is a witness, a group or "none"."""

    logs: tuple[Log, ...]
    witnesses: tuple[Witness, ...]
    groups: tuple[Group, ...]
    quorum: str

    def satisfied(self, names: Iterable[str]) -> bool:
        """Whether the witnesses with these names are enough."""
        return self.quorum == NONE or self._met(names)[self.quorum]

    def missing(self, names: Iterable[str]) -> str:
        """What the quorum lacks when these witnesses have signed; "" when it lacks nothing."""
        met = self._met(names)
        if self.quorum == NONE or met[self.quorum]:
            return ""
        groups = {group.name: group for group in self.groups}
        reasons, unmet = [], [self.quorum]
        for name in unmet:  # grows while it is read: groups name only what stands before them
            if name not in groups:
                reasons.append(f"witness {name} has not signed")
                continue
            group = groups[name]
            lacking = [member for member in group.members if not met[member]]
            have = len(group.members) - len(lacking)
            reasons.append(f"group {name} has {have} of {group.needed}, not {', '.join(lacking)}")
            unmet += [member for member in lacking if member in groups]
        return _shown("; ".join(reasons))

    def _met(self, names: Iterable[str]) -> dict[str, bool]:
        signed = set(names)
        met = {witness.name: witness.name in signed for witness in self.witnesses}
        for group in self.groups:
            met[group.name] = sum(met[member] for member in group.members) >= group.needed
        return met

    @classmethod
    def parse(cls, data: bytes | str) -> Self:
        """The policy of a file. Raises ProofRefused naming the line.

        Names are kept as the octets they are: two that look alike are two.
        """
        raw = data if isinstance(data, bytes) else data.encode("utf-8", "surrogateescape")
        if len(raw) > POLICY_BYTES_MAX:
            raise ProofRefused(f"more than {POLICY_BYTES_MAX} bytes", part="policy")
        found = FORBIDDEN.search(raw)
        lines = raw.decode("utf-8", "surrogateescape").split("\n")
        if found:
            line = 1 + raw.count(b"\n", 0, found.start())
            raise ProofRefused(f"octet 0x{found[0].hex()}", part="policy", line=line)
        if lines[-1]:
            raise ProofRefused("the last line has no newline", part="policy", line=len(lines))
        reader = _Reader()
        for reader.line, text in enumerate(lines[:-1], 1):
            words = WORD.findall(text)
            if words and not words[0].startswith("#"):
                reader.read(words)
        if reader.quorum is None:
            raise ProofRefused("no quorum line", part="policy")
        return cls(
            logs=tuple(reader.logs),
            witnesses=tuple(reader.witnesses),
            groups=tuple(reader.groups),
            quorum=reader.quorum,
        )


@dataclass(kw_only=True, slots=True)
class _Reader:
    """What the lines so far have defined."""

    line: int = 0
    logs: list[Log] = field(default_factory=list)
    witnesses: list[Witness] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)
    quorum: str | None = None
    names: dict[str, int] = field(default_factory=dict)  # witnesses and groups: their lines
    keys: dict[bytes, int] = field(default_factory=dict)  # public keys: their lines
    ids: dict[str, int] = field(default_factory=dict)  # names and ids of keys: their lines
    members: dict[str, str] = field(default_factory=dict)  # in which group each name is

    def read(self, words: list[str]) -> None:
        """Take in one line."""
        low, high = WORDS.get(words[0], (0, 0))
        if not low:
            raise self.refusal(f"{words[0][:40]!r} is not log, witness, group or quorum")
        if len(words) < low or (high is not None and len(words) > high):
            raise self.refusal(f"not `{FORMS[words[0]]}`")
        if words[0] == "log":
            self.logs.append(Log(key=self.key(words[1], LOG), url=next(iter(words[2:]), None)))
        elif words[0] == "witness":
            if len(self.witnesses) == WITNESSES_MAX:
                raise self.refusal(f"more than {WITNESSES_MAX} witnesses do not fit one note")
            self.define(words[1])
            key = self.key(words[2], COSIGNER)
            self.witnesses.append(Witness(name=words[1], key=key, url=next(iter(words[3:]), None)))
        elif words[0] == "group":
            self.group(words[1], words[2], tuple(words[3:]))
        else:
            self.end(words[1])

    def key(self, text: str, kind: int) -> VerifierKey:
        """A key that no other line has: who signs twice is not two."""
        key = VerifierKey.parse(text, part="policy", line=self.line)
        if key.kind != kind:
            raise self.refusal(f"{key} is not the key of a {KINDS[kind]}")
        if self.keys.setdefault(key.public, self.line) != self.line:
            raise self.refusal(f"{key} is the key of line {self.keys[key.public]} again")
        if self.ids.setdefault(str(key), self.line) != self.line:
            raise self.refusal(f"{key} is the name and key id of line {self.ids[str(key)]} too")
        return key

    def define(self, name: str) -> None:
        """A new name."""
        if name == NONE:
            raise self.refusal("`none` is the name of the empty quorum")
        if self.names.setdefault(name, self.line) != self.line:
            raise self.refusal(f"{name} is defined in line {self.names[name]}")

    def group(self, name: str, needed: str, members: tuple[str, ...]) -> None:
        """A group of names that stand above it, each in one group only."""
        for member in members:
            if member not in self.names:
                raise self.refusal(f"{member} is not defined above")
            if self.members.setdefault(member, name) != name or members.count(member) > 1:
                raise self.refusal(f"{member} is in group {self.members[member]} already")
        self.define(name)
        count = {"all": len(members), "any": 1}.get(needed)
        if count is None:
            count = int(needed) if NUMBER.fullmatch(needed) else 0
        if not 1 <= count <= len(members):
            raise self.refusal(f"{needed} is not all, any or a number from 1 to {len(members)}")
        self.groups.append(Group(name=name, needed=count, members=members))

    def end(self, name: str) -> None:
        """The quorum."""
        if self.quorum is not None:
            raise self.refusal("a second quorum line")
        if name != NONE and name not in self.names:
            raise self.refusal(f"{name} is not defined above")
        self.quorum = name

    def refusal(self, reason: str) -> ProofRefused:
        """The error of this line."""
        return ProofRefused(_shown(reason), part="policy", line=self.line)


def _shown(text: str) -> str:
    """A text that can be printed: octets of a name that are no UTF-8 as `\\xff`."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
