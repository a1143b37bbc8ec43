"""Who acts on the command line: a name for the history of lanes, not a proof."""

from __future__ import annotations

import getpass
import socket

from ledger.errors import BadInput
from tasks.text import printable

PRINCIPAL_MAX = 100  # characters


def principal(given: str | None) -> str:
    """The name given, else the operating system's user at this host. Raises BadInput."""
    name = f"{_user()}@{socket.gethostname()}" if given is None else given.strip()
    if not name or printable(name, PRINCIPAL_MAX) != name:
        remedy = f"use 1 to {PRINCIPAL_MAX} printable characters"
        raise BadInput("--as", "that is no name", remedy)
    return name


def reason(given: str) -> str:
    """Why, in words that end up in a history and on terminals. Raises BadInput."""
    words = given.strip()
    if not words or printable(words, PRINCIPAL_MAX) != words:
        remedy = f"use 1 to {PRINCIPAL_MAX} printable characters"
        raise BadInput("--reason", "it says nothing, or too much", remedy)
    return words


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as in some containers
        return "somebody"
