"""Tasks read from a file, one JSON object a line: all are checked before any is submitted.

Rows M03, C10.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

from ledger.errors import BadInput
from ledger.intake import PAYLOAD_MAX_BYTES, SIZE_MAX, TYPE_DEFAULT, Submission
from ledger.model import LANE_DEFAULT, Json
from tasks.jsontext import parse
from tasks.text import printable
from workers.terms import checked_key

FIELDS: Final = ("family", "payload", "size", "type", "lane", "key")
FILE_MAX_BYTES: Final = 256 << 20
LINE_MAX_BYTES: Final = 2 * PAYLOAD_MAX_BYTES  # white space and the other fields included
SHOWN_MAX: Final = 10  # families named in a refusal
DIGEST: Final = 32  # characters of a file's SHA-256 that its keys begin with
_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Defaults:
    """What a line need not say, and the families and lanes there are.

    `payload` is a JSON text; None: there is no default.
    """

    families: Collection[str]
    lanes: Collection[str]
    family: str | None = None
    payload: str | None = None
    size: int | None = None
    type: str = TYPE_DEFAULT
    lane: str = LANE_DEFAULT
    key: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One task of a file, and the number of its line."""

    number: int
    item: Submission


Name = Callable[[Submission, int], str]
"""A key for a task that has none, from what it is and its line."""


def by_line(data: bytes, key: str | None) -> Name:
    """`<key>:<line>`, where `<key>` is the one given or the beginning of the file's SHA-256: a file
    that was submitted halfway can be submitted again, and nothing is accepted twice. Raises
    BadInput for a `key` that is none."""
    prefix = key or hashlib.sha256(data).hexdigest()[:DIGEST]
    lines = data.count(b"\n") + 1
    checked_key(f"{prefix}:{lines}")  # the longest of those that are made here
    return lambda _, number: f"{prefix}:{number}"


def by_content() -> Name:
    """A hash of lane and content, and from the second of equal lines on the how-manieth it is:
    wherever the line stands, in whichever file, it is the same item."""
    seen: Counter[str] = Counter()

    def name(item: Submission, _: int) -> str:
        asked = [item.lane, item.family, item.type, item.size, item.payload]
        digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:DIGEST]
        seen[digest] += 1
        return digest if seen[digest] == 1 else f"{digest}:{seen[digest]}"

    return name


def read_lines(
    name: str, data: bytes, defaults: Defaults, key_of: Name
) -> tuple[list[Line], list[BadInput]]:
    """The tasks of a file, and what is wrong with its lines: (name:line: field, reason, remedy).

    Blank lines and the mark that some editors put in front of UTF-8 are skipped. A line without a
    key gets one of `key_of`. Raises BadInput for a file in another encoding.
    """
    _check_encoding(name, data)
    found: list[Line] = []
    faults: list[BadInput] = []
    lines: dict[str, int] = {}  # where each key was given
    lines_of = data.removeprefix(codecs.BOM_UTF8).split(b"\n")
    for number, line in enumerate(lines_of, start=1):
        if not line.strip():
            continue
        try:
            item = _submission(_object(line), defaults)
        except BadInput as error:
            faults.append(at(f"{name}:{number}", error))
            continue
        key = item.idempotency_key or key_of(item, number)
        if key in lines:
            twice = BadInput("key", f"line {lines[key]} has the same", "give each line its own")
            faults.append(at(f"{name}:{number}", twice))
            continue
        lines[key] = number
        found.append(Line(number=number, item=replace(item, idempotency_key=key)))
    return found, faults


def _check_encoding(name: str, data: bytes) -> None:
    """UTF-16 and UTF-32 begin with a mark of their own."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)):
        raise BadInput(name, "it is written in UTF-16 or UTF-32", "save it as UTF-8")


def at(place: str, error: BadInput) -> BadInput:
    """The same refusal, with the place it is about in front."""
    return BadInput(f"{place}: {error.field}", error.reason, error.remedy)


def from_flags(defaults: Defaults, count: int) -> list[Submission]:
    """`count` equal tasks. Their keys, if one is given, are `<key>` or `<key>:1`, `<key>:2`, …

    Raises BadInput for what is missing or impossible.
    """
    item = _submission({}, defaults)
    if defaults.key is None:
        return [item] * count
    keys = [defaults.key] if count == 1 else [f"{defaults.key}:{n}" for n in range(1, count + 1)]
    return [replace(item, idempotency_key=checked_key(key)) for key in keys]


def _object(line: bytes) -> dict[str, Json]:
    if len(line) > LINE_MAX_BYTES:
        raise too_large(len(line))
    value = parse(line, field="line")
    if not isinstance(value, dict):
        raise BadInput("line", "it is not a JSON object", 'write it as {"payload": …}')
    unknown = sorted(value.keys() - set(FIELDS))
    if unknown:
        raise BadInput(printable(unknown[0], 40), "it is unknown", f"use {', '.join(FIELDS)}")
    return value


def _submission(line: Mapping[str, Json], defaults: Defaults) -> Submission:
    return Submission(
        family=_family(line.get("family", defaults.family), defaults.families),
        payload=_payload(line, defaults),
        size=_size(line.get("size", defaults.size)),
        type=_type(line.get("type", defaults.type)),
        lane=_lane(line.get("lane", defaults.lane), defaults.lanes),
        idempotency_key=checked_key(line["key"]) if "key" in line else None,
    )


def _family(value: Json, families: Collection[str]) -> str:
    if value is None:
        raise BadInput("family", "it is missing", "name it here or with --family")
    if not isinstance(value, str) or value not in families:
        known = ", ".join(sorted(families)[:SHOWN_MAX]) or "none; add it with `clearlane apply`"
        raise BadInput("family", f"{_shown(value)} is not known", f"use one of: {known}")
    return value


def _lane(value: Json, lanes: Collection[str]) -> str:
    if not isinstance(value, str) or value not in lanes:
        raise BadInput("lane", f"{_shown(value)} is not known", "see `clearlane lanes list`")
    return value


def _payload(line: Mapping[str, Json], defaults: Defaults) -> Json:
    if "payload" in line:
        return _checked_payload(line["payload"])
    if defaults.payload is None:
        raise BadInput("payload", "it is missing", "give it here or with --payload")
    return _default_payload(defaults.payload)


@lru_cache(maxsize=1)
def _default_payload(text: str) -> Json:
    """Read once, not once a line."""
    return _checked_payload(parse(text, field="payload"))


def _checked_payload(payload: Json) -> Json:
    size_bytes = len(json.dumps(payload, separators=(",", ":")))  # as the intake counts it
    if size_bytes > PAYLOAD_MAX_BYTES:
        raise too_large(size_bytes)
    return payload


def too_large(size_bytes: int) -> BadInput:
    """The refusal of a payload of so many bytes."""
    return BadInput(
        "payload",
        f"{size_bytes} bytes are too many",
        f"send {PAYLOAD_MAX_BYTES} bytes at most, or a reference to the data",
    )


def _size(value: Json) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= SIZE_MAX:
        raise BadInput("size", f"{_shown(value)} is not possible", f"use 1 to {SIZE_MAX} tokens")
    return value


def _type(value: Json) -> str:
    if isinstance(value, str) and _TYPE.fullmatch(value):
        return value
    remedy = "use 1 to 64 letters, digits, dots, dashes and underscores"
    raise BadInput("type", f"{_shown(value)} is not possible", remedy)


def _shown(value: Json) -> str:
    return printable(repr(value), 60)
