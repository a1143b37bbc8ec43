"""Leaves of the log: what happened, as canonical JSON, and back.

Pure. A leaf is the exact bytes of its RFC 8785 form, of which our subset is: ASCII names, strings,
integers below 2**53, lists and one level of `params`. Amounts (micro-credits), sizes, f and ŝ are
decimal strings; counts and ordinals are integers. `decode` accepts nothing that `encode` would
have written otherwise, so that one event has one leaf hash. Row M21.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NoReturn

import orjson

from ledger.errors import BadInput

ENTRY_MAX = 65_535  # bytes: the length before an entry in a bundle is a 16-bit number
POSTINGS_MAX = 650  # with the longest names and amounts 64,400 bytes
REASON_MAX = 500  # characters

Postings = Sequence[tuple[str, int]]
"""Account and amount (micro-credits) in the order in which the leaf states them."""

_OPTIONS: Final = orjson.OPT_SORT_KEYS | orjson.OPT_STRICT_INTEGER
_ACCOUNT: Final = re.compile(r"(client|agent|system):[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_AMOUNT: Final = re.compile(r"-?[1-9][0-9]{0,18}")
_NATURAL: Final = re.compile(r"0|[1-9][0-9]{0,18}")
_BALANCE: Final = re.compile(r"0|-?[1-9][0-9]{0,18}")
_TASK: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_AT: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z")
_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")
_VALUE: Final = re.compile(r"[!-~]{1,64}")
_VKEY: Final = re.compile(r"[!-*,-~]{1,200}\+[0-9a-f]{8}\+[A-Za-z0-9+/]{1,200}={0,2}")
_REMEDY: Final = "take it as the log serves it"


class NewerLeaf(BadInput):
    """A canonical leaf of a type that this version does not know: it may be a later one's."""


def stamp(when: datetime) -> str:
    """An aware time as leaves state it: UTC, cut to the millisecond."""
    return when.astimezone(UTC).isoformat(timespec="milliseconds")[:23] + "Z"


def millis(at: str) -> int:
    """Milliseconds since 1970 of a stamp."""
    when = datetime.fromisoformat(at)
    return int(when.replace(microsecond=0).timestamp()) * 1000 + when.microsecond // 1000


def encode(entry: Mapping[str, Any]) -> bytes:
    """The canonical bytes of a leaf. Raises BadInput if it is too long or no text."""
    try:
        data = orjson.dumps(entry, option=_OPTIONS)
    except orjson.JSONEncodeError as error:
        raise BadInput("entry", str(error), "use text and integers below 2**53") from error
    if len(data) > ENTRY_MAX:
        raise BadInput("entry", f"{len(data)} bytes", f"use {ENTRY_MAX} at most")
    return data


def decode(data: bytes) -> dict[str, Any]:
    """The fields of a leaf: all of them, none else, each of its form, in canonical bytes.

    Raises BadInput naming the field; NewerLeaf for what a later version may mean.
    """
    if len(data) > ENTRY_MAX:
        _refuse("entry", f"{len(data)} bytes are more than {ENTRY_MAX}")
    try:
        entry = orjson.loads(data)
        canonical = orjson.dumps(entry, option=_OPTIONS)
    except (orjson.JSONDecodeError, orjson.JSONEncodeError) as error:
        _refuse("entry", f"not the JSON of a leaf ({error})")
    if type(entry) is not dict:
        _refuse("entry", "not an object")
    kind = entry.get("type")
    shape = _SHAPES.get((kind, len(entry))) if type(kind) is str else None
    if (shape is None or entry.get("v") != 1) and canonical == data:
        _require_known(entry.get("v"), kind)
    if shape is None:
        _refuse("type", f"no leaf of type {kind!r} has {len(entry)} fields")
    name = "entry"
    try:
        for name, check in shape:
            if not check(entry[name]):
                _refuse(name, "not of its form")
    except (KeyError, TypeError, ValueError):
        _refuse(name, "missing or not of its form")
    if canonical != data:
        _refuse("entry", "not in canonical form (RFC 8785)")
    return entry


def params(*, epoch: int, at: str, values: Mapping[str, str]) -> bytes:
    """Every parameter in force from here on."""
    return encode({"v": 1, "type": "params", "epoch": epoch, "at": at, "params": dict(values)})


def open_account(*, epoch: int, at: str, account: str, quota_ub: int | None) -> bytes:
    """A new account with balance 0. No quota: no floor (issuance)."""
    return encode(_open(epoch, at, account, quota_ub))


def open_older(
    *, epoch: int, at: str, account: str, quota_ub: int | None, balance_ub: int, settled: int
) -> bytes:
    """An account that is older than the log: what it held and how many tasks it had settled.

    `at` is when it was opened, not when the log began: clearing counts its age from there.
    """
    older = {"balance": str(balance_ub), "settled": settled}
    return encode(_open(epoch, at, account, quota_ub) | older)


def _open(epoch: int, at: str, account: str, quota_ub: int | None) -> dict[str, Any]:
    quota = None if quota_ub is None else str(quota_ub)
    return {"v": 1, "type": "open", "epoch": epoch, "at": at, "account": account, "quota": quota}


def quota(*, epoch: int, at: str, account: str, quota_ub: int) -> bytes:
    """How far an account may go below zero from here on."""
    entry = {"v": 1, "type": "quota", "epoch": epoch, "at": at, "account": account}
    return encode(entry | {"quota": str(quota_ub)})


def mint(*, epoch: int, at: str, account: str, postings: Postings) -> bytes:
    """Credit created for one account."""
    entry = {"v": 1, "type": "mint", "epoch": epoch, "at": at, "account": account}
    return encode(entry | {"postings": _listed(postings)})


def settle(
    *,
    epoch: int,
    at: str,
    task: str,
    attempt: int,
    client: str,
    agent: str,
    size: int,
    output_sha256: str,
    postings: Postings,
) -> bytes:
    """A task is done and paid. `client` and `agent` are accounts; `size` is in tokens.

    Made under the settle lock, once for every task: the names stand in their order already.
    """
    return encode(
        {
            "agent": agent,
            "at": at,
            "attempt": attempt,
            "client": client,
            "epoch": epoch,
            "output_sha256": output_sha256,
            "postings": [(account, str(amount_ub)) for account, amount_ub in postings],
            "size": str(size),
            "task": task,
            "type": "settle",
            "v": 1,
            "verdict": "pass",
        }
    )


def abort(*, epoch: int, at: str, task: str, attempt: int, outcome: str) -> bytes:
    """An attempt failed and no agent is to blame."""
    return encode(_abort(epoch, at, task, attempt, outcome))


def abort_blaming(
    *,
    epoch: int,
    at: str,
    task: str,
    attempt: int,
    outcome: str,
    agent: str,
    f: tuple[float, float],
    s: tuple[float, float],
) -> bytes:
    """An attempt failed by its agent's fault: its risk premium and quality, before and after."""
    blame = {"agent": agent, "f": [repr(float(x)) for x in f], "s": [repr(float(x)) for x in s]}
    return encode(_abort(epoch, at, task, attempt, outcome) | blame)


def _abort(epoch: int, at: str, task: str, attempt: int, outcome: str) -> dict[str, Any]:
    entry = {"v": 1, "type": "abort", "epoch": epoch, "at": at, "task": task}
    return entry | {"attempt": attempt, "outcome": outcome}


def clear(*, epoch: int, at: str, part: int, postings: Postings) -> bytes:
    """Demurrage and charges of one group of accounts at the end of an epoch; parts count from 0."""
    entry = {"v": 1, "type": "clear", "epoch": epoch, "at": at, "part": part}
    return encode(entry | {"postings": _listed(postings)})


def top_up(*, epoch: int, at: str, postings: Postings) -> bytes:
    """Small amounts for clients whose budget blocked them, at the end of an epoch."""
    entry = {"v": 1, "type": "top_up", "epoch": epoch, "at": at}
    return encode(entry | {"postings": _listed(postings)})


def penalty(*, epoch: int, at: str, reason: str, postings: Postings) -> bytes:
    """Credit taken for a stated reason."""
    entry = {"v": 1, "type": "penalty", "epoch": epoch, "at": at, "reason": reason}
    return encode(entry | {"postings": _listed(postings)})


def freeze(*, epoch: int, at: str, account: str, frozen: bool, reason: str) -> bytes:
    """An account is barred from work for a stated reason, or no more. It moves no credit."""
    entry = {"v": 1, "type": "freeze", "epoch": epoch, "at": at, "account": account}
    return encode(entry | {"frozen": frozen, "reason": reason})


def epoch_close(
    *,
    epoch: int,
    at: str,
    accounts: int,
    demurrage_ub: int,
    charge_ub: int,
    top_up_ub: int,
    burned_ub: int,
    minted_ub: int,
    settled: int,
    balances_sha256: str,
) -> bytes:
    """The totals of an epoch; its last leaf."""
    return encode(
        {
            "v": 1,
            "type": "epoch_close",
            "epoch": epoch,
            "at": at,
            "accounts": accounts,
            "demurrage": str(demurrage_ub),
            "charge": str(charge_ub),
            "top_up": str(top_up_ub),
            "burned": str(burned_ub),
            "minted": str(minted_ub),
            "settled": settled,
            "balances_sha256": balances_sha256,
        }
    )


def key(*, epoch: int, at: str, old: str, new: str) -> bytes:
    """From here on the log is signed by another key; both as verifier keys."""
    return encode({"v": 1, "type": "key", "epoch": epoch, "at": at, "old": old, "new": new})


def _listed(postings: Postings) -> list[list[str]]:
    if len(postings) > POSTINGS_MAX:
        reason = f"{len(postings)} are more than {POSTINGS_MAX}"
        raise BadInput("postings", reason, "split them over several leaves")
    return [[account, str(amount_ub)] for account, amount_ub in postings]


def _refuse(field: str, reason: str) -> NoReturn:
    raise BadInput(field, reason, _REMEDY)


# The form of each field. A check may raise TypeError or ValueError for what is of another kind.


def _at(value: Any) -> object:
    return _AT.fullmatch(value) and datetime.fromisoformat(value)


def _count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _ordinal(value: Any) -> bool:
    return type(value) is int and value >= 1


def _quota(value: Any) -> object:
    return value is None or _NATURAL.fullmatch(value)


def _pairs(value: Any) -> bool:
    if type(value) is not list or len(value) > POSTINGS_MAX:
        return False
    account, amount = _ACCOUNT.fullmatch, _AMOUNT.fullmatch
    for pair in value:
        if type(pair) is not list or len(pair) != 2 or not account(pair[0]) or not amount(pair[1]):  # noqa: PLR2004
            return False
    return True


def _named(value: Any) -> bool:
    if type(value) is not dict:
        return False
    return all(_NAME.fullmatch(name) and _VALUE.fullmatch(text) for name, text in value.items())


def _change(value: Any) -> bool:
    """Before and after: two finite numbers, as Python writes them."""
    if type(value) is not list or len(value) != 2:  # noqa: PLR2004
        return False
    return all(
        0.0 <= float(text) < float("inf") and repr(float(text)) == text and text != "-0.0"
        for text in value
    )


def _flag(value: Any) -> bool:
    return type(value) is bool


def _reason(value: Any) -> bool:
    return type(value) is str and 1 <= len(value) <= REASON_MAX


def _is(text: object) -> Callable[[Any], bool]:
    # `1 == True` and `1 == 1.0` in Python
    return lambda value: type(value) is type(text) and value == text


_Shape = Mapping[str, Callable[[Any], object]]


def _shape(kind: str, fields: _Shape) -> tuple[tuple[str, int], tuple[tuple[str, Any], ...]]:
    every = {"v": _is(1), "type": _is(kind), "epoch": _ordinal, "at": _at, **fields}
    return (kind, len(every)), tuple(every.items())


_OPEN: Final[_Shape] = {"account": _ACCOUNT.fullmatch, "quota": _quota}
_ABORT: Final[_Shape] = {"task": _TASK.fullmatch, "attempt": _ordinal, "outcome": _NAME.fullmatch}
_SHAPES: Final = dict(
    [
        _shape("params", {"params": _named}),
        _shape("open", _OPEN),
        _shape("open", {**_OPEN, "balance": _BALANCE.fullmatch, "settled": _count}),
        _shape("quota", {"account": _ACCOUNT.fullmatch, "quota": _NATURAL.fullmatch}),
        _shape("mint", {"account": _ACCOUNT.fullmatch, "postings": _pairs}),
        _shape(
            "settle",
            {
                "task": _TASK.fullmatch,
                "attempt": _ordinal,
                "client": _ACCOUNT.fullmatch,
                "agent": _ACCOUNT.fullmatch,
                "size": _NATURAL.fullmatch,
                "verdict": _is("pass"),
                "output_sha256": _SHA256.fullmatch,
                "postings": _pairs,
            },
        ),
        _shape("abort", _ABORT),
        _shape("abort", {**_ABORT, "agent": _ACCOUNT.fullmatch, "f": _change, "s": _change}),
        _shape("clear", {"part": _count, "postings": _pairs}),
        _shape("top_up", {"postings": _pairs}),
        _shape("penalty", {"reason": _reason, "postings": _pairs}),
        _shape("freeze", {"account": _ACCOUNT.fullmatch, "frozen": _flag, "reason": _reason}),
        _shape(
            "epoch_close",
            {
                "accounts": _count,
                "demurrage": _NATURAL.fullmatch,
                "charge": _NATURAL.fullmatch,
                "top_up": _NATURAL.fullmatch,
                "burned": _NATURAL.fullmatch,
                "minted": _NATURAL.fullmatch,
                "settled": _count,
                "balances_sha256": _SHA256.fullmatch,
            },
        ),
        _shape("key", {"old": _VKEY.fullmatch, "new": _VKEY.fullmatch}),
    ]
)
_KINDS: Final = frozenset(kind for kind, _ in _SHAPES)


def _require_known(version: Any, kind: Any) -> None:
    """Raise NewerLeaf for a version or a type that is not known, if it has the form of one."""
    if type(version) is not int or type(kind) is not str or _NAME.fullmatch(kind) is None:
        return
    if version > 1 or (version == 1 and kind not in _KINDS):
        reason = f"this version does not know leaves of type {kind!r}, v {version}"
        raise NewerLeaf("type", reason, "use the version that the log is written by")
