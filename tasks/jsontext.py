"""JSON that others wrote, read strictly: what passes can be stored, compared and shown."""

from __future__ import annotations

import json
import math

from ledger.errors import BadInput
from ledger.model import Json
from tasks.text import printable

DEPTH_MAX = 64  # far below what the interpreter's and PostgreSQL's stacks bear
DIGITS_MAX = 1000  # of an integer: reading and writing takes time by the square of them
_INTEGER_MAX = 10**DIGITS_MAX - 1
_LONG = f"holds an integer of more than {DIGITS_MAX} digits"


def parse(text: bytes | str, *, field: str) -> Json:
    """Decode one JSON document.

    Raises BadInput naming `field` if it is not UTF-8 JSON, nests deeper than DEPTH_MAX, has an
    integer of more than DIGITS_MAX digits, or holds what PostgreSQL or another JSON reader would
    refuse or read otherwise: NaN, infinities, NUL characters, lone surrogates, a key twice in one
    object.
    """
    try:
        value = _DECODER.decode(text if isinstance(text, str) else text.decode("utf-8"))
    except RecursionError:
        raise _refused(field, f"nests deeper than {DEPTH_MAX} levels") from None
    except _Twice as error:
        raise _refused(field, f"names a key twice in one object: {error}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise _refused(field, f"is not JSON ({error})") from None
    except ValueError:  # the interpreter has a limit too, which others may set
        raise _refused(field, _LONG) from None
    reason = _unfit(value)
    if reason:
        raise _refused(field, reason)
    return value


class _Twice(ValueError):
    """A key stands twice: one reader takes the first value, another the last."""


def _object(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise _Twice(printable(repr(twice), 60))
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_object)


def _refused(field: str, reason: str) -> BadInput:
    return BadInput(field, reason, "send one plain JSON document in UTF-8")


def _unfit(root: Json) -> str | None:
    """Why a decoded document cannot be kept, or None. A loop: the input chooses the depth."""
    pending = [(root, 1)]
    while pending:
        value, depth = pending.pop()
        if isinstance(value, str):
            if not _storable(value):
                return "holds a NUL character or half a surrogate pair"
        elif isinstance(value, float):
            if not math.isfinite(value):
                return "holds a number that is not finite"
        elif isinstance(value, dict | list):
            if depth > DEPTH_MAX:
                return f"nests deeper than {DEPTH_MAX} levels"
            if isinstance(value, dict):
                pending.extend((key, depth + 1) for key in value)
                value = value.values()
            pending.extend((item, depth + 1) for item in value)
        elif isinstance(value, int) and not -_INTEGER_MAX <= value <= _INTEGER_MAX:
            return _LONG
    return None


def _storable(text: str) -> bool:
    if "\0" in text:
        return False
    if text.isascii():
        return True
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
