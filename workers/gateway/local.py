"""The operator token of a stack on this machine: whoever may read its home may use its gateway."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Final

from sqlalchemy import Engine

from ledger import tokens
from ledger.db import connect
from ledger.errors import NotFound
from ledger.tokens import Role
from workers import home as homes
from workers.settings import sqlalchemy_url

FILE: Final = "gateway.token"
PRINCIPAL: Final = "local"
MADE: Final = "gateway_token_id"


def keep_token(database_url: str, home: Path, now: datetime) -> Path:
    """The file with an operator token that is valid at this database, readable by its owner alone.

    It is made at the first start, and again when the one in it was revoked or belongs to another
    database, or the file is gone: the one that was made here before is revoked then, wherever it
    went. Raises Unavailable.
    """
    path = home / FILE
    engine = connect(sqlalchemy_url(database_url))
    try:
        text = _kept(path)
        if text is None or not _opens(engine, text, now):
            text = _made(engine, home, now)
        homes.write_private(path, f"{text}\n")  # always: someone may have widened its mode
    finally:
        engine.dispose()
    return path


def _made(engine: Engine, home: Path, now: datetime) -> str:
    """A new token. Until its text is written, nobody has it: a kill between leaves none open."""
    made = tokens.create(engine, role=Role.OPERATOR, principal=PRINCIPAL, now=now)
    former = homes.kept(home, MADE)
    if former is not None:
        with suppress(NotFound):  # it was made at another database
            tokens.revoke(engine, former, now)
    homes.keep(home, MADE, made.token.id)
    return made.text


def _kept(path: Path) -> str | None:
    try:
        return path.read_bytes().decode("ascii", "replace").strip()
    except FileNotFoundError:
        return None


def _opens(engine: Engine, text: str, now: datetime) -> bool:
    parts = tokens.split(text)
    token = tokens.find(engine, parts[0]) if parts else None
    return (
        parts is not None
        and token is not None
        and token.state(now) == "valid"
        and token.role is Role.OPERATOR
        and token.opens_with(parts[1])
    )
