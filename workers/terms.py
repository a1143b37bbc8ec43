"""What a submission may say, the same over HTTP, on the command line and in a file. Row C10."""

from __future__ import annotations

import re
from typing import Final

from ledger.errors import BadInput
from ledger.model import Json
from tasks.text import printable

EXPIRES_S_MAX: Final = 366 * 86_400
"""Seconds, a year whichever it is: what is worth more than that need not expire."""

KEY: Final = r"^[ -~]{1,200}$"
"""An idempotency key: printable ASCII, so that it is the same in a header and in JSON."""

NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
"""Of a client, an agent, a family, a lane."""


def checked_name(field: str, name: str) -> str:
    """A name. Raises BadInput."""
    if re.fullmatch(NAME, name):
        return name
    reason = f"{printable(repr(name), 60)} is no name"
    raise BadInput(field, reason, "use 1 to 64 letters, digits, dots, dashes and underscores")


def checked_key(key: Json) -> str:
    """An idempotency key. Raises BadInput."""
    if isinstance(key, str) and re.fullmatch(KEY, key):
        return key
    raise BadInput(
        "key",
        f"{printable(repr(key), 60)} is no key",
        "use 1 to 200 characters of printable ASCII",
    )
